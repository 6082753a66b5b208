# An absolute path that every program's configuration can carry as it is: no spaces, quotes, %, $ and backslashes.
type Zulip::Path = Pattern[/\A\/[^[:space:][:cntrl:]"'\\%$`]*\z/]
