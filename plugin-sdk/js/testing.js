// Runs a plugin's logic under plain `node --test`, against a fake host: no WebAssembly, no server, no CRM.
//
// The fake answers what it was told to, applies `update` to the records it was given, and keeps everything that the
// handler did, for whole-value comparison. It does not imitate the CRM's behaviour.

import { CrmError, HttpError, StateError } from "./salesman.js";

/**
 * An event as the host hands it over.
 * @param {string} name
 * @param {Record<string, any>} [fields]
 * @param {object} [more] Anything else of the event: `actor`, `attempt`, `entity`.
 */
export const event = (name, fields = {}, more = {}) => ({
    id: "01936f5e-0000-7000-8000-000000000001",
    account: "main",
    name,
    receivedAt: 1764000000000,
    via: "json",
    actor: 1,
    entity: null,
    attempt: 1,
    ...more,
    fields: JSON.stringify(fields),
});

/** A host that answers what it was told to. */
export class FakeHost {
    /** @param {{ settings?: object, state?: Record<string, any> }} [start] */
    constructor({ settings = {}, state = {} } = {}) {
        this.#settings = settings;
        for (const [key, value] of Object.entries(state)) this.state[key] = JSON.stringify(value);
    }

    #settings;
    #answers = new Map();
    #responses = [];
    #records = new Map();
    /** Every call to the CRM: `["deal.list", { … }]`. @type {[string, any][]} */
    calls = [];
    /** Every request to the outside. @type {any[]} */
    requests = [];
    /** Every log line: `info: …`. @type {string[]} */
    lines = [];
    /** What the state holds, as JSON text. @type {Record<string, string>} */
    state = {};

    /** An answer for a call, or the error that it brings; the last one is given again and again. */
    answer(call, body) {
        this.#answers.set(call, [...(this.#answers.get(call) ?? []), body]);
        return this;
    }

    /** A record that `update` can change. */
    record(kind, id, fields) {
        this.#records.set(`${kind} ${id}`, { ...fields });
        return this;
    }

    /** A response for a request to the outside, or the error that it brings. */
    respond(status, body = "") {
        this.#responses.push(
            status instanceof Error ? status : { status, headers: [], body: new TextEncoder().encode(body) },
        );
        return this;
    }

    /** Runs a plugin once; returns its reply. */
    run(handle, event) {
        return handle(event, this.#backend());
    }

    #backend() {
        const next = (queue, none) => {
            const value = (queue.length > 1 ? queue.shift() : queue[0]) ?? none;
            if (value instanceof Error) throw value;
            return value;
        };
        return {
            crmCall: (method, action, args) => {
                const call = `${method}.${action}`;
                this.calls.push([call, JSON.parse(args)]);
                const none = new CrmError("invalid", `the fake host has no answer for \`${call}\`: give it one with \`answer\``);
                return JSON.stringify(next(this.#answers.get(call) ?? [], none));
            },
            crmUpdate: (kind, id, changes, accepted) => {
                const wanted = JSON.parse(changes);
                const call = accepted.length === 0 ? { id, changes: wanted } : { id, changes: wanted, accepted };
                this.calls.push([`${kind}.update`, call]);
                const record = this.#records.get(`${kind} ${id}`);
                if (!record) throw new CrmError("refused", "Запись не найдена", "403");
                const changed = Object.keys(wanted).filter((field) => record[field] !== wanted[field]);
                Object.assign(record, wanted);
                return changed;
            },
            stateGet: (key) => this.state[key] ?? null,
            stateSet: (key, value) => void (this.state[key] = value),
            stateDelete: (key) => void delete this.state[key],
            stateIncrement: (key, amount) => {
                const sum = Number(this.state[key] ?? 0) + amount;
                if (!Number.isSafeInteger(sum)) {
                    throw new StateError("invalid", `the state of \`${key}\` is not a number that can grow`);
                }
                this.state[key] = String(sum);
                return sum;
            },
            stateKeys: (prefix, after) => {
                const wanted = (key) => key.startsWith(prefix) && (after === null || key > after);
                return Object.keys(this.state).filter(wanted).sort().slice(0, 1000);
            },
            httpSend: (request) => {
                this.requests.push({ ...request, body: new TextDecoder().decode(request.body) });
                return next(this.#responses, new HttpError("invalid", "the fake host has no response: give it one with `respond`"));
            },
            settings: () => JSON.stringify(this.#settings),
            log: (level, message) => void this.lines.push(`${level}: ${message}`),
        };
    }
}
