// The pleasant side of the contract `salesman:plugin@1.0.0` for plugins in JavaScript.
//
// - A handler gets an event with parsed fields and a host whose values are ordinary JavaScript values.
// - Errors of host calls become replies as in the Rust SDK (see `HostError.isTransient`); whatever else is thrown fails
//   the attempt, with its message and stack in the attempt's log.
// - Nothing here imports the contract: `entry.js` connects the two, so that a handler also runs under `node --test`.
//
// Not here: typed events and records. Read the SDK's README for the events' fields.

/** @typedef {"debug" | "info" | "warn" | "error"} Level */
/** @typedef {"client" | "person" | "deal" | "task"} RecordKind */
/** @typedef {{ kind: string, id: string }} Entity */

/**
 * One event of the CRM, and which delivery of it this is.
 * @typedef {object} Event
 * @property {string} id The event's id, the same in every attempt.
 * @property {string} account The CRM that it came from, as the host's configuration names it.
 * @property {string} name `deal.change.step`
 * @property {number} receivedAt Milliseconds since 1970-01-01 UTC.
 * @property {"form" | "query" | "json" | "poll"} via How it came in.
 * @property {number | null} actor The employee who caused it.
 * @property {Entity | null} entity The record that it is about.
 * @property {Record<string, any>} fields What else came with it; scalars are text.
 * @property {number} attempt Which attempt at this delivery this is, from 1.
 */

/**
 * What became of a delivery: made by `done`, `skip`, `retry` and `reject`.
 * @typedef {{ tag: "done" } | { tag: "skip" | "reject", val: string }
 *     | { tag: "retry", val: { reason: string, after: bigint | undefined } }} Reply
 */

/**
 * What stands behind a `Host`: the contract's imports, or a test's fake. JSON crosses as text.
 * @typedef {object} Backend
 * @property {(method: string, action: string, args: string) => string} crmCall
 * @property {(kind: RecordKind, id: number, changes: string) => string[]} crmUpdate
 * @property {(key: string) => string | null} stateGet
 * @property {(key: string, value: string) => void} stateSet
 * @property {(key: string) => void} stateDelete
 * @property {(key: string, amount: number) => number} stateIncrement
 * @property {(prefix: string, after: string | null) => string[]} stateKeys
 * @property {(request: RawRequest) => RawResponse} httpSend
 * @property {() => string} settings
 * @property {(level: Level, message: string) => void} log
 */
/** @typedef {{ method: string, url: string, headers: [string, string][], body: Uint8Array, timeout: number | undefined }} RawRequest */
/** @typedef {{ status: number, headers: [string, string][], body: Uint8Array }} RawResponse */

/** Frames of a stack that a log line shows. */
const MOST_FRAMES = 20;

// -- replies

/** The event is handled. @returns {Reply} */
export const done = () => ({ tag: "done" });

/** Nothing to do for this event, and why. @param {string} [reason] @returns {Reply} */
export const skip = (reason = "") => ({ tag: "skip", val: String(reason) });

/**
 * Try again: when the host's backoff says so, but not before `afterMs` milliseconds have passed.
 * @param {string} reason
 * @param {number} [afterMs]
 * @returns {Reply}
 */
export const retry = (reason, afterMs) => ({
    tag: "retry",
    val: { reason: String(reason), after: afterMs === undefined ? undefined : BigInt(Math.max(0, Math.ceil(afterMs))) },
});

/** Never going to work: an operator must look. @param {string} reason @returns {Reply} */
export const reject = (reason) => ({ tag: "reject", val: String(reason) });

// -- errors

/** A call to the host that brought no good answer. A handler that does not catch it has its delivery retried or rejected. */
export class HostError extends Error {
    /**
     * @param {string} kind The contract's word: `not-granted`, `refused`, `transport`, `bad-answer`, `invalid`, `uncertain`.
     * @param {string} message
     */
    constructor(kind, message) {
        super(message);
        this.name = new.target.name;
        this.kind = kind;
    }

    /** Whether the same call may succeed later: time or the administrator may help. */
    isTransient() {
        return ["transport", "bad-answer", "not-granted"].includes(this.kind);
    }
}

/** A call to the CRM failed. */
export class CrmError extends HostError {
    /**
     * @param {string} kind
     * @param {string} text The CRM's or the host's words.
     * @param {string | null} [code] The CRM's own code, where it refused with one.
     */
    constructor(kind, text, code = null) {
        const before = {
            "refused": code === null ? "the CRM refused: " : `the CRM refused with code ${code}: `,
            "transport": "the CRM could not be reached: ",
            "bad-answer": "the CRM gave an answer that is not the API's: ",
            "invalid": "the call can't be made: ",
        };
        super(kind, (before[kind] ?? "") + text);
        this.code = code;
    }

    isTransient() {
        // 401: the host's key or login is wrong, which has nothing to do with this event.
        return super.isTransient() || this.code === "401";
    }
}

/** A call to the plugin's state failed. */
export class StateError extends HostError {
    /** @param {string} kind @param {string} text */
    constructor(kind, text) {
        super(kind, kind === "invalid" ? `the state call can't be made: ${text}` : text);
    }
}

/** A request to the outside brought no answer. */
export class HttpError extends HostError {
    /** @param {string} kind @param {string} text */
    constructor(kind, text) {
        const before = { transport: "the request brought no answer: ", invalid: "the request can't be made: " };
        super(kind, (before[kind] ?? "") + text);
    }
}

/** An event, a setting, an answer or a stored value of another form than expected: the delivery is rejected. */
export class DataError extends Error {
    /** @param {string} message */
    constructor(message) {
        super(message);
        this.name = "DataError";
    }
}

/**
 * JSON, whose whole numbers beyond 2^53 are strings of their digits: as numbers they would be others.
 * @param {string} text
 * @param {(error: unknown) => Error} wrong
 */
function parsed(text, wrong) {
    try {
        return JSON.parse(/\d{16}/.test(text) ? exact(text) : text);
    } catch (error) {
        throw wrong(error);
    }
}

/**
 * JSON with such numbers in quotes. A regular expression that knows strings and numbers whole, because not every engine tells
 * `JSON.parse` how a number was written.
 * @param {string} text
 */
function exact(text) {
    const tokens = /"(?:[^"\\]|\\.)*"|-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?/g;
    return text.replace(tokens, (token) =>
        /^-?\d{16,}$/.test(token) && !Number.isSafeInteger(Number(token)) ? `"${token}"` : token,
    );
}

// -- the host

/** The CRM's REST API. */
export class Crm {
    #backend;

    /** @param {Backend} backend */
    constructor(backend) {
        this.#backend = backend;
    }

    /**
     * Calls `method.action` as it is; returns the CRM's whole answer.
     * @param {string} method `deal`
     * @param {string} action `list`
     * @param {Record<string, any>} [args]
     * @returns {any}
     */
    call(method, action, args = {}) {
        const text = this.#backend.crmCall(method, action, JSON.stringify(args));
        return parsed(text, (error) => new CrmError("bad-answer", String(error)));
    }

    /**
     * Changes some fields of a record and loses no other; returns the names of those that were written. What the API can't
     * preserve is refused (`crm.would_lose`), unless the loss of those columns is accepted.
     * @param {RecordKind} kind
     * @param {number | string} id
     * @param {Record<string, any>} changes
     * @param {string[]} [accepted] columns that may be lost
     * @returns {string[]}
     */
    update(kind, id, changes, accepted = []) {
        const number = Number(id);
        if (!Number.isSafeInteger(number) || number < 0) {
            throw new CrmError("invalid", `\`${id}\` is not the number of a ${kind}`);
        }
        return this.#backend.crmUpdate(kind, number, JSON.stringify(changes), accepted);
    }
}

/** The plugin's own memory, kept per account. Values are JSON. Writes take effect with the reply, or not at all. */
export class State {
    #backend;

    /** @param {Backend} backend */
    constructor(backend) {
        this.#backend = backend;
    }

    /** The value of `key`; undefined where there is none. @param {string} key @returns {any} */
    get(key) {
        const text = this.#backend.stateGet(key);
        if (text === null || text === undefined) return undefined;
        return parsed(text, (error) => new DataError(`the state of \`${key}\` is not JSON: ${error}`));
    }

    /** Sets `key`. @param {string} key @param {any} value */
    set(key, value) {
        const text = JSON.stringify(value);
        if (text === undefined) throw new DataError(`the value for \`${key}\` can't be written as JSON: use \`delete\``);
        this.#backend.stateSet(key, text);
    }

    /** Removes `key`. @param {string} key */
    delete(key) {
        this.#backend.stateDelete(key);
    }

    /**
     * Adds to the whole number at `key` (0 where there is none) and returns the sum. Deliveries at once add up correctly.
     * @param {string} key
     * @param {number} [amount]
     * @returns {number}
     */
    increment(key, amount = 1) {
        if (!Number.isSafeInteger(amount)) throw new StateError("invalid", `${amount} is not a whole number`);
        return this.#backend.stateIncrement(key, amount);
    }

    /**
     * The keys that start with `prefix`, sorted: at most 1,000, those behind `after`.
     * @param {string} [prefix]
     * @param {string | null} [after]
     * @returns {string[]}
     */
    keys(prefix = "", after = null) {
        return this.#backend.stateKeys(prefix, after);
    }
}

/** What the other side answered, 4xx and 5xx included. */
export class Response {
    /** @param {RawResponse} raw */
    constructor(raw) {
        this.status = raw.status;
        this.headers = raw.headers;
        this.body = raw.body;
    }

    /** Whether the status is 2xx. */
    get ok() {
        return this.status >= 200 && this.status < 300;
    }

    /** The body as text. @returns {string} */
    text() {
        return new TextDecoder().decode(this.body);
    }

    /** The body as JSON. @returns {any} */
    json() {
        return parsed(this.text(), (error) => new DataError(`the answer is not JSON: ${error}`));
    }
}

/** Requests to the outside, to granted origins only. */
export class Http {
    #backend;

    /** @param {Backend} backend */
    constructor(backend) {
        this.#backend = backend;
    }

    /**
     * Sends a request and waits for the whole answer.
     * @param {{ method?: string, url: string, headers?: Record<string, string> | [string, string][],
     *     body?: string | Uint8Array, timeoutMs?: number }} request
     * @returns {Response}
     */
    send({ method = "GET", url, headers = {}, body = "", timeoutMs }) {
        return new Response(
            this.#backend.httpSend({
                method,
                url,
                headers: Array.isArray(headers) ? headers : Object.entries(headers),
                body: typeof body === "string" ? new TextEncoder().encode(body) : body,
                timeout: timeoutMs,
            }),
        );
    }

    /** Posts `body` as JSON. @param {string} url @param {any} body @returns {Response} */
    postJson(url, body) {
        const headers = { "content-type": "application/json" };
        return this.send({ method: "POST", url, headers, body: JSON.stringify(body) });
    }
}

/** What a handler can reach. */
export class Host {
    #backend;

    /** @param {Backend} backend */
    constructor(backend) {
        this.#backend = backend;
        this.crm = new Crm(backend);
        this.state = new State(backend);
        this.http = new Http(backend);
        const line = (level) => (...parts) => backend.log(level, parts.map(shown).join(" "));
        /** Lines that are kept with the attempt. */
        this.log = { debug: line("debug"), info: line("info"), warn: line("warn"), error: line("error") };
    }

    /** The manifest's `[settings]`, keys replaced by the administrator's. @returns {Record<string, any>} */
    settings() {
        return parsed(this.#backend.settings(), (error) => new DataError(`the settings are not JSON: ${error}`));
    }
}

/** @param {unknown} part */
function shown(part) {
    if (typeof part === "string") return part;
    if (part instanceof Error) return [String(part), ...framesOf(part)].join("\n");
    return JSON.stringify(part) ?? String(part);
}

/** Where an error came from, without the frames that the tools put below the plugin's. @param {Error} error */
function framesOf(error) {
    const lines = String(error.stack ?? "").split("\n");
    // Node begins with the message, which is there already.
    return lines.filter((line) => /:\d+:\d+\)?$/.test(line) && !line.includes("/initializer.js")).slice(0, MOST_FRAMES);
}

// -- the plugin

/** @param {any} raw @returns {Event} */
function eventFrom(raw) {
    const fields = parsed(raw.fields, (error) => new DataError(`the event's fields are not a JSON object: ${error}`));
    return {
        id: raw.id,
        account: raw.account,
        name: raw.name,
        receivedAt: Number(raw.receivedAt),
        via: raw.via,
        actor: raw.actor === undefined || raw.actor === null ? null : Number(raw.actor),
        entity: raw.entity ?? null,
        fields,
        attempt: raw.attempt,
    };
}

/**
 * An error that a handler did not catch: a reply where it is known, or the attempt's failure.
 * @param {unknown} error
 * @param {Host} host
 * @returns {Reply}
 */
function replyTo(error, host) {
    if (error instanceof DataError) return reject(error.message);
    if (error instanceof HostError) return error.isTransient() ? retry(error.message) : reject(error.message);
    // The host sees only that the plugin stopped: why, it has to be told before.
    host.log.error(error);
    throw error;
}

/** @param {unknown} reply @returns {Reply} */
function checked(reply) {
    const tag = /** @type {any} */ (reply)?.tag;
    if (["done", "skip", "retry", "reject"].includes(tag)) return /** @type {Reply} */ (reply);
    throw new TypeError("the handler returned no reply: end it with `return done()`, `skip`, `retry` or `reject`");
}

/**
 * Makes a handler a plugin: `export const handle = plugin((event, host) => done())`. The handler may be `async`.
 * @param {(event: Event, host: Host) => Reply | Promise<Reply>} handler
 * @returns {(raw: any, backend: Backend) => Reply | Promise<Reply>}
 */
export function plugin(handler) {
    return (raw, backend) => {
        const host = new Host(backend);
        const failed = (error) => replyTo(error, host);
        try {
            const reply = handler(eventFrom(raw), host);
            return reply instanceof Promise ? reply.then(checked).catch(failed) : checked(reply);
        } catch (error) {
            return failed(error);
        }
    };
}
