import { render } from "preact";
import { useEffect, useReducer, useState } from "preact/hooks";
import { Details, Login, NewGroup } from "./dialogs.tsx";
import { Sidebar } from "./sidebar.tsx";
import { Chat, type Person } from "./store.ts";
import "./style.css";
import { ThreadView } from "./thread.tsx";

interface Config {
  api: string;
  users: Person[];
}

/** DEVELOPMENT ONLY: the chat server gives a token to whoever asks. Asked again when it is about to end. */
function tokenSource(user: string): (refused?: boolean) => Promise<string> {
  let held: { token: string; expires: number } | undefined;
  return async (refused = false) => {
    if (refused || held === undefined || held.expires - Date.now() < 60000) {
      const answer = await fetch("/dev/token", { method: "POST", body: JSON.stringify({ user }) });
      if (!answer.ok) throw new Error((await answer.json()).message);
      held = (await answer.json()) as { token: string; expires: number };
    }
    return held.token;
  };
}

function Room({ chat, onLogout }: { chat: Chat; onLogout: () => void }) {
  const [, again] = useReducer((n: number) => n + 1, 0);
  const [dialog, setDialog] = useState<"group" | "details">();
  useEffect(() => chat.listen(() => again(undefined as never)), [chat]);
  const unread = [...chat.conversations.values()].reduce((sum, conversation) => sum + conversation.unread, 0);
  useEffect(() => {
    document.title = unread > 0 ? `(${unread}) Kalam Chat` : "Kalam Chat";
  }, [unread]);
  const thread = chat.thread();
  return (
    <div class={`app ${thread === undefined ? "at-list" : "at-thread"}`}>
      <Sidebar chat={chat} onNewGroup={() => setDialog("group")} onLogout={onLogout} />
      {thread === undefined ? (
        <main class="thread nothing">
          <img src="/favicon.svg" width="64" height="64" alt="" />
          <p>Choose a conversation, or start a new one.</p>
        </main>
      ) : (
        <ThreadView chat={chat} thread={thread} onDetails={() => setDialog("details")} />
      )}
      {dialog === "group" && <NewGroup chat={chat} onClose={() => setDialog(undefined)} />}
      {dialog === "details" && chat.current !== undefined && <Details chat={chat} id={chat.current} onClose={() => setDialog(undefined)} />}
      <div class="notices" role="alert">
        {chat.notice !== undefined && <div class="notice">{chat.notice}</div>}
      </div>
    </div>
  );
}

function App({ config }: { config: Config }) {
  const [chat, setChat] = useState<Chat>();
  const [error, setError] = useState<string>();
  const login = async (person: Person) => {
    const token = tokenSource(person.id);
    try {
      await token();
    } catch (reason) {
      sessionStorage.removeItem("kalam-user");
      return setError(`Log-in failed: ${reason instanceof Error ? reason.message : reason}`);
    }
    sessionStorage.setItem("kalam-user", person.id);
    setError(undefined);
    setChat(new Chat(person, config.users, config.api, token));
  };
  useEffect(() => {
    const before = config.users.find((person) => person.id === sessionStorage.getItem("kalam-user"));
    if (before !== undefined) void login(before);
  }, []);
  if (chat === undefined) return <Login people={config.users} error={error} onChoose={(person) => void login(person)} />;
  return (
    <Room
      chat={chat}
      onLogout={() => {
        sessionStorage.removeItem("kalam-user");
        chat.close();
        setChat(undefined);
      }}
    />
  );
}

const root = document.getElementById("app")!;
fetch("/dev/config")
  .then((answer) => answer.json())
  .then((config: Config) => render(<App config={config} />, root))
  .catch(() => {
    root.textContent = "The chat server does not answer. Reload to try again.";
  });
