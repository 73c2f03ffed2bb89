// {{name}}: what it does for each event.

import { done, plugin, skip } from "./salesman.js";

export const handle = plugin((event, host) => {
    if (!event.entity) return skip("the event is about no record");
    const { greeting } = host.settings();
    const count = host.state.increment(`count.${event.name}`);
    host.log.info(`${greeting}: ${event.entity.kind} ${event.entity.id}, number ${count} of ${event.name}`);
    return done();
});
