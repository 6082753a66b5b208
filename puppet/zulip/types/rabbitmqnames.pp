# A regular expression of queues and exchanges, as Debian's rabbitmqctl hands it on: with no quotes and no backslashes,
# and $ at its end only.
type Zulip::RabbitmqNames = Pattern[/\A[^"'\\`$[:cntrl:]]*\$?\z/]
