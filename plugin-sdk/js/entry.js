// The component's entry: connects the contract's imports with `handler.js`. Built, never edited, never imported by tests.

import * as crm from "salesman:plugin/crm@1.0.0";
import * as http from "salesman:plugin/http@1.0.0";
import * as log from "salesman:plugin/log@1.0.0";
import * as settings from "salesman:plugin/settings@1.0.0";
import * as state from "salesman:plugin/state@1.0.0";

import { handle as handler } from "./handler.js";
import { CrmError, Host, HttpError, StateError } from "./salesman.js";

/**
 * Calls the host; what it throws holds the contract's own error as `payload`.
 * @template T
 * @param {() => T} call
 * @param {(error: { tag: string, val: any }) => Error} known
 */
function calling(call, known) {
    try {
        return call();
    } catch (error) {
        throw error?.payload?.tag ? known(error.payload) : error;
    }
}

const crmError = ({ tag, val }) =>
    tag === "refused" ? new CrmError(tag, val.text, val.code ?? null) : new CrmError(tag, val);
const stateError = ({ tag, val }) => new StateError(tag, val);
const httpError = ({ tag, val }) => new HttpError(tag, val);

/** @type {import("./salesman.js").Backend} */
const backend = {
    crmCall: (method, action, args) => calling(() => crm.call({ method, action, arguments: args }), crmError),
    crmUpdate: (kind, id, changes, accepted) =>
        calling(
            () =>
                accepted.length === 0
                    ? crm.update(kind, BigInt(id), changes)
                    : crm.updateLosing(kind, BigInt(id), changes, accepted),
            crmError,
        ),
    stateGet: (key) => calling(() => state.get(key), stateError) ?? null,
    stateSet: (key, value) => calling(() => state.set(key, value), stateError),
    stateDelete: (key) => calling(() => state.delete(key), stateError),
    stateIncrement: (key, amount) => Number(calling(() => state.increment(key, BigInt(amount)), stateError)),
    stateKeys: (prefix, after) => calling(() => state.keys(prefix, after ?? undefined), stateError),
    httpSend: (request) => calling(() => http.send(request), httpError),
    settings: () => settings.get(),
    log: (level, message) => log.write(level, message),
};

export const handle = (event) => {
    // Output would go nowhere: what is printed is kept with the attempt instead.
    const { debug, info, warn, error } = new Host(backend).log;
    Object.assign(console, { debug, info, warn, error, log: info });
    return handler(event, backend);
};
