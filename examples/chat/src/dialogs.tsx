import type { ComponentChildren } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import { Icon } from "./icons.tsx";
import { Avatar, titleOf } from "./sidebar.tsx";
import type { Chat, Person } from "./store.ts";

function Dialog({ title, onClose, children }: { title: string; onClose: () => void; children: ComponentChildren }) {
  const box = useRef<HTMLDialogElement>(null);
  useEffect(() => box.current!.showModal(), []);
  return (
    <dialog ref={box} aria-label={title} onClose={onClose} onClick={(event) => event.target === box.current && box.current!.close()}>
      <div class="sheet">
        <header>
          <h2>{title}</h2>
          <button type="button" class="quiet" aria-label="Close" onClick={() => box.current!.close()}>
            <Icon name="close" />
          </button>
        </header>
        {children}
      </div>
    </dialog>
  );
}

export function NewGroup({ chat, onClose }: { chat: Chat; onClose: () => void }) {
  const [title, setTitle] = useState("");
  const [chosen, setChosen] = useState<string[]>([]);
  const [busy, setBusy] = useState(false);
  const others = chat.people.filter((person) => person.id !== chat.me.id);
  const toggle = (id: string) => setChosen(chosen.includes(id) ? chosen.filter((c) => c !== id) : [...chosen, id]);
  return (
    <Dialog title="New group" onClose={onClose}>
      <form
        onSubmit={async (event) => {
          event.preventDefault();
          setBusy(true);
          if (await chat.newGroup(title.trim(), chosen)) onClose();
          setBusy(false);
        }}
      >
        <label class="labelled">
          Name
          <input type="text" value={title} maxLength={80} required placeholder="Saturday picnic" onInput={(event) => setTitle(event.currentTarget.value)} />
        </label>
        <fieldset>
          <legend>Members</legend>
          {others.map((person) => (
            <label class="someone" key={person.id}>
              <Avatar id={person.id} name={person.name} size={32} />
              <span>{person.name}</span>
              <input type="checkbox" checked={chosen.includes(person.id)} onChange={() => toggle(person.id)} />
            </label>
          ))}
        </fieldset>
        <div class="actions">
          <button type="button" onClick={onClose}>
            Cancel
          </button>
          <button class="primary" disabled={busy || title.trim() === "" || chosen.length === 0}>
            Create
          </button>
        </div>
      </form>
    </Dialog>
  );
}

export function Details({ chat, id, onClose }: { chat: Chat; id: string; onClose: () => void }) {
  const conversation = chat.conversations.get(id);
  const members = chat.threads.get(id)?.members ?? [];
  const [title, setTitle] = useState(conversation?.title ?? "");
  if (conversation === undefined) return null;
  const group = conversation.conversation_type === "group";
  const mine = members.find((member) => member.user_id === chat.me.id)?.role;
  const rules = !group || mine === "owner" || mine === "admin";
  const absent = chat.people.filter((person) => !members.some((member) => member.user_id === person.id));
  return (
    <Dialog title={group ? "Group" : "Chat"} onClose={onClose}>
      {rules ? (
        <form
          onSubmit={(event) => {
            event.preventDefault();
            void chat.rename(id, title.trim());
          }}
        >
          <label class="labelled">
            Name
            <span class="with-button">
              <input type="text" value={title} maxLength={80} required onInput={(event) => setTitle(event.currentTarget.value)} />
              <button disabled={title.trim() === "" || title === conversation.title}>Rename</button>
            </span>
          </label>
        </form>
      ) : (
        <p class="big">{titleOf(conversation)}</p>
      )}
      {group && (
        <fieldset>
          <legend>Members</legend>
          {members.map((member) => (
            <div class="someone" key={member.user_id}>
              <Avatar id={member.user_id} name={chat.nameOf(member.user_id)} size={32} />
              <span>{chat.nameOf(member.user_id)}</span>
              {member.role !== "member" && <em>{member.role}</em>}
            </div>
          ))}
          {rules &&
            mine !== undefined &&
            absent.map((person) => (
              <div class="someone" key={person.id}>
                <Avatar id={person.id} name={person.name} size={32} />
                <span>{person.name}</span>
                <button onClick={() => void chat.addMember(id, person.id)}>Add</button>
              </div>
            ))}
        </fieldset>
      )}
      <div class="actions">
        {group && mine !== undefined && (
          <button
            onClick={() => {
              void chat.leave(id);
              onClose();
            }}
          >
            Leave the group
          </button>
        )}
        <button
          class="danger"
          onClick={() => {
            void chat.discard(id);
            onClose();
          }}
        >
          {group && mine !== undefined ? "Leave and delete" : "Delete"}
        </button>
      </div>
    </Dialog>
  );
}

export function Login({ people, error, onChoose }: { people: Person[]; error: string | undefined; onChoose: (person: Person) => void }) {
  return (
    <main class="login">
      <div class="card">
        <img src="/favicon.svg" width="56" height="56" alt="" />
        <h1>Kalam Chat</h1>
        <p>Who are you today?</p>
        <div class="choices">
          {people.map((person) => (
            <button key={person.id} onClick={() => onChoose(person)}>
              <Avatar id={person.id} name={person.name} size={44} />
              {person.name}
            </button>
          ))}
        </div>
        {error !== undefined && (
          <p class="error" role="alert">
            {error}
          </p>
        )}
        <small>Development log-in, no passwords: anyone on this machine can be anyone.</small>
      </div>
    </main>
  );
}
