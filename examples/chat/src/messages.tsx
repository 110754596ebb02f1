import type { ComponentChildren } from "preact";
import { memo } from "preact/compat";
import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";
import { Icon } from "./icons.tsx";
import type { Message, Outgoing } from "./kalamdb.ts";
import { Avatar } from "./sidebar.tsx";
import { isImage, type Chat, type Thread } from "./store.ts";
import { clock, dayOf, linked, listed, sameDay } from "./text.tsx";

const togetherMs = 5 * 60000;

function Picture({ chat, message }: { chat: Chat; message: Message }) {
  const [url, setUrl] = useState<string>();
  const [failed, setFailed] = useState(false);
  const ref = message.content_ref!;
  useEffect(() => {
    let shown = true;
    chat.link(ref).then((link) => shown && setUrl(link), () => shown && setFailed(true));
    return () => {
      shown = false;
    };
  }, [ref]);
  const { width, height } = message.metadata?.media ?? {};
  const shape = width > 0 && height > 0 ? { aspectRatio: `${width} / ${height}`, width: `${Math.min(360, width, (320 * width) / height)}px` } : {};
  if (failed) return <div class="picture missing">The picture could not be loaded.</div>;
  return (
    <a class="picture" style={shape} href={url} target="_blank" rel="noopener noreferrer" aria-label="Open the picture">
      {url !== undefined && <img src={url} alt={message.content === "" ? `Picture from ${chat.nameOf(message.from)}` : message.content} onError={() => setFailed(true)} />}
    </a>
  );
}

/** The row has the beginning of a long text; the rest is one click away. */
function LongText({ chat, message }: { chat: Chat; message: Message }) {
  const [full, setFull] = useState<string>();
  const [busy, setBusy] = useState(false);
  const load = () => {
    setBusy(true);
    chat.fullText(message.content_ref!).then(setFull, () => chat.say("The rest could not be loaded")).finally(() => setBusy(false));
  };
  return (
    <>
      <div class="text">{linked(full ?? `${message.content}…`)}</div>
      {full === undefined && (
        <button class="link" disabled={busy} onClick={load}>
          {busy ? "Loading…" : "Show all"}
        </button>
      )}
    </>
  );
}

function Content({ chat, message }: { chat: Chat; message: Message }) {
  const { stream } = message.metadata ?? {};
  if (isImage(message)) {
    return (
      <>
        <Picture chat={chat} message={message} />
        {message.content !== "" && <div class="text">{linked(message.content)}</div>}
      </>
    );
  }
  if (message.content_ref !== null) return <LongText chat={chat} message={message} />;
  return (
    <div class={`text ${stream === "open" ? "growing" : ""}`}>
      {linked(message.content)}
      {stream === "open" && <span class="caret" aria-label="still writing" />}
      {stream === "interrupted" && <span class="interrupted"> (interrupted)</span>}
    </div>
  );
}

function Editor({ message, onDone }: { message: Message; onDone: (text?: string) => void }) {
  const [text, setText] = useState(message.content);
  const box = useRef<HTMLTextAreaElement>(null);
  useEffect(() => {
    box.current!.focus();
    box.current!.setSelectionRange(text.length, text.length);
  }, []);
  const save = () => onDone(text.trim() === "" || text === message.content ? undefined : text);
  return (
    <form
      class="editor"
      onSubmit={(event) => {
        event.preventDefault();
        save();
      }}
    >
      <textarea
        ref={box}
        aria-label="Edit message"
        rows={Math.min(8, text.split("\n").length + Math.floor(text.length / 60))}
        value={text}
        onInput={(event) => setText(event.currentTarget.value)}
        onKeyDown={(event) => {
          if (event.key === "Escape") onDone();
          else if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
            event.preventDefault();
            save();
          }
        }}
      />
      <div class="actions">
        <button type="button" onClick={() => onDone()}>
          Cancel
        </button>
        <button class="primary">Save</button>
      </div>
    </form>
  );
}

function Menu({ own, group, editable, onEdit, onDelete }: { own: boolean; group: boolean; editable: boolean; onEdit: () => void; onDelete: (everyone: boolean) => void }) {
  const [open, setOpen] = useState(false);
  const box = useRef<HTMLDivElement>(null);
  useEffect(() => {
    if (!open) return;
    box.current!.querySelector<HTMLElement>("[role=menuitem]")?.focus();
    const away = (event: Event) => !box.current?.contains(event.target as Node) && setOpen(false);
    document.addEventListener("pointerdown", away);
    return () => document.removeEventListener("pointerdown", away);
  }, [open]);
  const choose = (work: () => void) => () => {
    setOpen(false);
    work();
  };
  return (
    <div class={`menu ${open ? "open" : ""}`} ref={box} onKeyDown={(event) => event.key === "Escape" && setOpen(false)}>
      <button class="quiet" aria-label="Message actions" aria-haspopup="menu" aria-expanded={open} onClick={() => setOpen(!open)}>
        <Icon name="more" size={18} />
      </button>
      {open && (
        <div class="items" role="menu">
          {editable && (
            <button role="menuitem" onClick={choose(onEdit)}>
              Edit
            </button>
          )}
          <button role="menuitem" onClick={choose(() => onDelete(false))}>
            {group ? "Delete for me" : "Delete"}
          </button>
          {group && own && (
            <button role="menuitem" class="danger" onClick={choose(() => onDelete(true))}>
              Delete for everyone
            </button>
          )}
        </div>
      )}
    </div>
  );
}

interface RowProps {
  chat: Chat;
  message: Message;
  first: boolean;
  group: boolean;
}

const Row = memo(function Row({ chat, message, first, group }: RowProps) {
  const [editing, setEditing] = useState(false);
  const own = message.from === chat.me.id;
  const open = message.metadata?.stream === "open";
  const kind = /^(ai|assistant)(:|$)/.test(message.from) ? "ai" : "person";
  return (
    <li class={`message ${own ? "own" : "other"} ${kind} ${first ? "first" : ""}`} data-msg-id={message.msg_id} aria-busy={open}>
      {!own && <span class="face">{first && <Avatar id={message.from} name={chat.nameOf(message.from)} kind={kind} size={32} />}</span>}
      <div class="body">
        {first && !own && (group || kind === "ai") && <div class="name">{chat.nameOf(message.from)}</div>}
        {first && own && <div class="hidden">You</div>}
        <div class="bubble-line">
          <div class={`bubble ${isImage(message) ? "with-picture" : ""}`}>
            {editing ? (
              <Editor
                message={message}
                onDone={(text) => {
                  setEditing(false);
                  if (text !== undefined) void chat.edit(message, text);
                }}
              />
            ) : (
              <Content chat={chat} message={message} />
            )}
          </div>
          {!editing && !open && (
            <Menu
              own={own}
              group={group}
              editable={own && message.content_ref === null}
              onEdit={() => setEditing(true)}
              onDelete={(everyone) => void chat.remove(message, everyone)}
            />
          )}
        </div>
        <div class="meta">
          <time dateTime={message.timestamp}>{clock(message.timestamp)}</time>
          {message.metadata?.edited === true && <span class="edited">edited</span>}
        </div>
      </div>
    </li>
  );
});

function OutgoingRow({ chat, item }: { chat: Chat; item: Outgoing }) {
  const [preview, setPreview] = useState<string>();
  useEffect(() => {
    if (item.file === undefined) return;
    const url = URL.createObjectURL(item.file);
    setPreview(url);
    return () => URL.revokeObjectURL(url);
  }, [item.file]);
  return (
    <li class={`message own first outgoing ${item.state}`} data-client-msg-id={item.client_msg_id}>
      <div class="body">
        <div class="bubble-line">
          <div class={`bubble ${item.file === undefined ? "" : "with-picture"}`}>
            {preview !== undefined && (
              <span class="picture">
                <img src={preview} alt="Picture on its way" />
              </span>
            )}
            {item.content !== "" && <div class="text">{linked(item.content)}</div>}
          </div>
        </div>
        <div class="meta" role={item.state === "failed" ? "alert" : undefined}>
          {item.state === "waiting" && (
            <span>
              <Icon name="clock" size={12} /> {chat.client.state === "online" ? "Sending…" : "Waiting for the network"}
            </span>
          )}
          {item.state === "sent" && (
            <span>
              <Icon name="check" size={12} /> Sent
            </span>
          )}
          {item.state === "failed" && (
            <>
              <span class="error">Not sent: {item.error}</span>
              <button class="link" onClick={() => chat.outbox.retry(item.client_msg_id)}>
                Try again
              </button>
              <button class="link" onClick={() => chat.outbox.drop(item.client_msg_id)}>
                Discard
              </button>
            </>
          )}
        </div>
      </div>
    </li>
  );
}

function Typing({ chat, thread }: { chat: Chat; thread: Thread }) {
  const names = [...thread.typing.keys()].map((id) => chat.nameOf(id));
  return (
    <div class={`typing-line ${names.length > 0 ? "shown" : ""}`} role="status">
      {names.length > 0 && (
        <>
          <span class="dots" aria-hidden="true">
            <i />
            <i />
            <i />
          </span>
          {listed(names)} {names.length === 1 ? "is" : "are"} typing…
        </>
      )}
    </div>
  );
}

function Seen({ chat, thread }: { chat: Chat; thread: Thread }) {
  const last = thread.timeline.rows.at(-1);
  if (last === undefined || last.from !== chat.me.id) return null;
  const readers = thread.members.filter((member) => member.user_id !== chat.me.id && (member.last_read_msg_id ?? 0) >= last.msg_id);
  if (readers.length === 0) return null;
  return <div class="seen">Seen by {listed(readers.map((member) => chat.nameOf(member.user_id)))}</div>;
}

export function Messages({ chat, thread, group }: { chat: Chat; thread: Thread; group: boolean }) {
  const scroller = useRef<HTMLDivElement>(null);
  const top = useRef<HTMLDivElement>(null);
  const before = useRef({ height: 0, firstId: 0 });
  const [away, setAway] = useState(false);
  const { timeline } = thread;
  const outgoing = chat.outbox.items.filter((item) => item.conversation_id === thread.id && !timeline.rows.some((row) => row.from === chat.me.id && row.client_msg_id === item.client_msg_id));

  // New text keeps the end in view when it was; older rows above leave what is read where it is.
  useLayoutEffect(() => {
    const box = scroller.current!;
    const firstId = timeline.rows[0]?.msg_id ?? 0;
    if (chat.atEnd) box.scrollTop = box.scrollHeight;
    else if (firstId < before.current.firstId) box.scrollTop += box.scrollHeight - before.current.height;
    before.current = { height: box.scrollHeight, firstId };
  });
  useEffect(() => {
    const box = scroller.current!;
    const stay = new ResizeObserver(() => {
      if (chat.atEnd) box.scrollTop = box.scrollHeight;
    });
    stay.observe(box);
    stay.observe(box.firstElementChild!);
    return () => stay.disconnect();
  }, []);
  useEffect(() => {
    const watch = new IntersectionObserver(
      ([entry]) => {
        if (entry.isIntersecting && thread.state === "ready" && !timeline.complete) void chat.older(thread);
      },
      { root: scroller.current, rootMargin: "400px 0px 0px 0px" },
    );
    watch.observe(top.current!);
    return () => watch.disconnect();
  }, [timeline.rows[0]?.msg_id, thread.state]);

  const scrolled = () => {
    const box = scroller.current!;
    chat.atEnd = box.scrollHeight - box.scrollTop - box.clientHeight < 40;
    setAway(box.scrollHeight - box.scrollTop - box.clientHeight > 300);
    if (chat.atEnd) chat.markRead();
  };
  const toEnd = () => {
    chat.atEnd = true;
    scroller.current!.scrollTop = scroller.current!.scrollHeight;
  };

  const items: ComponentChildren[] = [];
  timeline.rows.forEach((message, i) => {
    const previous = timeline.rows[i - 1];
    const newDay = previous === undefined || !sameDay(previous.timestamp, message.timestamp);
    if (newDay) {
      items.push(
        <li key={`day-${message.msg_id}`} class="day">
          <span>{dayOf(message.timestamp)}</span>
        </li>,
      );
    }
    const isNew = message.msg_id === thread.newFrom;
    if (isNew) {
      items.push(
        <li key="new" class="day new-from">
          <span>New</span>
        </li>,
      );
    }
    const first = newDay || isNew || previous.from !== message.from || Date.parse(message.timestamp) - Date.parse(previous.timestamp) > togetherMs;
    items.push(<Row key={message.msg_id} chat={chat} message={message} first={first} group={group} />);
  });

  return (
    <div class="messages" ref={scroller} onScroll={scrolled} tabIndex={0} aria-label="Messages">
      <div class="column">
        <div class="top" ref={top}>
          {thread.state === "loading" && <span class="hint">Loading…</span>}
          {thread.state === "failed" && (
            <button class="link" onClick={() => void chat.older(thread)}>
              Could not load messages. Try again
            </button>
          )}
          {thread.state === "ready" && !timeline.complete && (
            <button class="link" onClick={() => void chat.older(thread)}>
              Older messages
            </button>
          )}
          {thread.state === "ready" && timeline.complete && timeline.rows.length === 0 && outgoing.length === 0 && (
            <p class="hint empty">{group ? "Nobody has written yet. Mention @assistant to bring it in." : "Ask anything: the answer comes word by word."}</p>
          )}
        </div>
        <ol class="rows" role="log" aria-live="polite" aria-relevant="additions">
          {items}
          {outgoing.map((item) => (
            <OutgoingRow key={item.client_msg_id} chat={chat} item={item} />
          ))}
        </ol>
        <Seen chat={chat} thread={thread} />
        <Typing chat={chat} thread={thread} />
      </div>
      {away && (
        <button class="to-end" onClick={toEnd} aria-label="To the newest message">
          <Icon name="down" />
        </button>
      )}
    </div>
  );
}
