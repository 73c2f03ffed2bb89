"""{{name}}: what it does for each event."""

from salesman import Event, Host, Reply, done, plugin, skip


@plugin
def handle(event: Event, host: Host) -> Reply:
    if event.entity is None:
        return skip("the event is about no record")
    greeting = host.settings()["greeting"]
    count = host.state.increment(f"count.{event.name}")
    host.log.info(f"{greeting}: {event.entity.kind} {event.entity.id}, number {count} of {event.name}")
    return done()
