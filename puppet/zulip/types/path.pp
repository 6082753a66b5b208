# An absolute path that every program's configuration can carry as it is: no spaces, quotes, %, $ and backslashes; and
# that is written one way only: no slash at its end, no empty and no single-dot part.
type Zulip::Path = Pattern[/\A(\/(?!\.?(\/|\z))[^\/[:space:][:cntrl:]"'\\%$`]+)+\z/]
