import { useEffect, useRef, useState } from "preact/hooks";
import { Icon } from "./icons.tsx";
import { Messages } from "./messages.tsx";
import { Avatar, titleOf } from "./sidebar.tsx";
import type { Chat, Thread } from "./store.ts";
import { listed } from "./text.tsx";

const pictures = "image/png,image/jpeg,image/gif,image/webp";

function Composer({ chat, group }: { chat: Chat; group: boolean }) {
  const [text, setText] = useState("");
  const [file, setFile] = useState<File>();
  const [preview, setPreview] = useState<string>();
  const box = useRef<HTMLTextAreaElement>(null);
  const picker = useRef<HTMLInputElement>(null);
  useEffect(() => box.current!.focus({ preventScroll: true }), []);
  useEffect(() => {
    const area = box.current!;
    area.style.height = "auto";
    area.style.height = `${Math.min(area.scrollHeight, 180)}px`;
  }, [text]);
  useEffect(() => {
    if (file === undefined) return setPreview(undefined);
    const url = URL.createObjectURL(file);
    setPreview(url);
    return () => URL.revokeObjectURL(url);
  }, [file]);
  const take = (files: FileList | undefined | null) => {
    const picture = [...(files ?? [])].find((f) => pictures.includes(f.type));
    if (picture !== undefined) setFile(picture);
    else if ((files?.length ?? 0) > 0) chat.say("Only pictures can be sent: PNG, JPEG, GIF or WebP");
    return picture !== undefined;
  };
  const send = () => {
    if (text.trim() === "" && file === undefined) return;
    chat.atEnd = true;
    chat.send(text.trim(), file);
    setText("");
    setFile(undefined);
    box.current!.focus();
  };
  return (
    <form
      class="composer"
      onSubmit={(event) => {
        event.preventDefault();
        send();
      }}
      onDragOver={(event) => event.preventDefault()}
      onDrop={(event) => {
        event.preventDefault();
        take(event.dataTransfer?.files);
      }}
    >
      {preview !== undefined && file !== undefined && (
        <div class="attached">
          <img src={preview} alt={`Attached: ${file.name}`} />
          <button type="button" class="quiet" aria-label="Remove the picture" onClick={() => setFile(undefined)}>
            <Icon name="close" size={16} />
          </button>
        </div>
      )}
      <div class="field">
        <input
          ref={picker}
          type="file"
          accept={pictures}
          class="hidden"
          tabIndex={-1}
          aria-label="Picture"
          onChange={(event) => {
            take(event.currentTarget.files);
            event.currentTarget.value = "";
          }}
        />
        <button type="button" class="quiet" aria-label="Attach a picture" title="Attach a picture" onClick={() => picker.current!.click()}>
          <Icon name="picture" />
        </button>
        <textarea
          ref={box}
          rows={1}
          aria-label="Message"
          placeholder={group ? "Message, or ask @assistant" : "Ask the assistant"}
          value={text}
          onInput={(event) => {
            setText(event.currentTarget.value);
            if (event.currentTarget.value !== "") chat.typing();
          }}
          onPaste={(event) => take(event.clipboardData?.files) && event.preventDefault()}
          onKeyDown={(event) => {
            if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
            event.preventDefault();
            send();
          }}
        />
        <button class="send" aria-label="Send" disabled={text.trim() === "" && file === undefined}>
          <Icon name="send" />
        </button>
      </div>
    </form>
  );
}

export function ThreadView({ chat, thread, onDetails }: { chat: Chat; thread: Thread; onDetails: () => void }) {
  const conversation = chat.conversations.get(thread.id);
  const group = conversation?.conversation_type === "group";
  const others = thread.members.filter((member) => member.user_id !== chat.me.id).map((member) => chat.nameOf(member.user_id));
  const gone = group && thread.members.length === 0 && thread.state === "ready";
  const title = conversation === undefined ? "Conversation" : titleOf(conversation);
  return (
    <main class="thread" aria-label={title}>
      <header class="bar">
        <button class="quiet back" aria-label="Back to the list" onClick={() => chat.open(undefined)}>
          <Icon name="back" />
        </button>
        <Avatar id={thread.id} name={title} kind={group ? "group" : "ai"} size={36} />
        <div class="who">
          <h1>{title}</h1>
          <span>{group ? (gone ? "You are no longer in this group" : listed(["You", ...others])) : "Assistant"}</span>
        </div>
        <button class="quiet" aria-label="Details" title="Details" onClick={onDetails}>
          <Icon name="more" />
        </button>
      </header>
      {chat.client.state !== "online" && (
        <div class="banner" role="status">
          {chat.client.state === "connecting" ? "Connecting…" : "No connection. What you write is sent as soon as there is one."}
        </div>
      )}
      <Messages key={thread.id} chat={chat} thread={thread} group={group} />
      <Composer key={`composer-${thread.id}`} chat={chat} group={group} />
    </main>
  );
}
