import { Icon } from "./icons.tsx";
import type { Chat, Conversation } from "./store.ts";
import { briefly, hue } from "./text.tsx";

export function Avatar({ id, name, kind = "person", size = 40 }: { id: string; name: string; kind?: "person" | "ai" | "group"; size?: number }) {
  return (
    <span class={`avatar ${kind}`} style={{ "--hue": hue(id), width: size, height: size, fontSize: size * 0.4 }} aria-hidden="true">
      {kind === "ai" ? <Icon name="spark" size={size * 0.52} /> : kind === "group" ? <Icon name="people" size={size * 0.54} /> : [...name][0]?.toUpperCase()}
    </span>
  );
}

export function titleOf(conversation: Conversation): string {
  return conversation.title ?? (conversation.conversation_type === "ai" ? "New chat" : "Group");
}

function Preview({ chat, conversation }: { chat: Chat; conversation: Conversation }) {
  const typing = [...(chat.threads.get(conversation.conversation_id)?.typing.keys() ?? [])];
  if (typing.length > 0) return <span class="preview typing">{chat.nameOf(typing[0])} is typing…</span>;
  const { last } = conversation;
  if (last === null) return <span class="preview">No messages yet</span>;
  const who = last.from === chat.me.id ? "You: " : conversation.conversation_type === "group" ? `${chat.nameOf(last.from)}: ` : "";
  return (
    <span class="preview">
      {who}
      {last.text.slice(0, 120)}
    </span>
  );
}

export function Sidebar({ chat, onNewGroup, onLogout }: { chat: Chat; onNewGroup: () => void; onLogout: () => void }) {
  const list = chat.list();
  return (
    <aside class="sidebar" aria-label="Conversations">
      <header class="me">
        <Avatar id={chat.me.id} name={chat.me.name} size={36} />
        <div class="who">
          <strong>{chat.me.name}</strong>
          <span class={`state ${chat.client.state}`} role="status">
            {chat.client.state === "online" ? "Online" : chat.client.state === "connecting" ? "Connecting…" : "Offline"}
          </span>
        </div>
        <button class="quiet" onClick={onLogout} aria-label="Log out" title="Log out">
          <Icon name="leave" />
        </button>
      </header>
      <div class="new">
        <button onClick={() => void chat.newAssistantChat()}>
          <Icon name="spark" size={17} />
          New chat
        </button>
        <button onClick={onNewGroup}>
          <Icon name="people" size={17} />
          New group
        </button>
      </div>
      <nav aria-label="Conversation list">
        <ul class="conversations">
          {list.map((conversation) => (
            <li key={conversation.conversation_id}>
              <button
                class={`conversation ${conversation.unread > 0 ? "unread" : ""}`}
                data-conversation={conversation.conversation_id}
                aria-current={chat.current === conversation.conversation_id ? "true" : undefined}
                onClick={() => chat.open(conversation.conversation_id)}
              >
                <Avatar id={conversation.conversation_id} name={titleOf(conversation)} kind={conversation.conversation_type} />
                <span class="lines">
                  <span class="line">
                    <span class="title">{titleOf(conversation)}</span>
                    {conversation.last !== null && <time dateTime={conversation.last.timestamp}>{briefly(conversation.last.timestamp)}</time>}
                  </span>
                  <span class="line">
                    <Preview chat={chat} conversation={conversation} />
                    {conversation.unread > 0 && (
                      <span class="count" aria-label={`${conversation.unread} unread`}>
                        {conversation.unread > 99 ? "99+" : conversation.unread}
                      </span>
                    )}
                  </span>
                </span>
              </button>
            </li>
          ))}
        </ul>
        {chat.listed && list.length === 0 && <p class="hint">No conversations yet. Start a chat with the assistant, or a group with the others.</p>}
        {!chat.listed && <p class="hint">{chat.client.state === "online" ? "Loading…" : "Waiting for the server…"}</p>}
      </nav>
    </aside>
  );
}
