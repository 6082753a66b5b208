# An address, of either kind, and a port: 127.0.0.1:5672, ::1:5672.
type Zulip::Listener = Pattern[/\A[0-9A-Fa-f:.]+:[1-9][0-9]{0,4}\z/]
