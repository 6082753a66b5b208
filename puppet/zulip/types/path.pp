# An absolute path that supervisord, systemd, cron, Nagios and shells all carry as it is; and that is written one way
# only: no slash at its end, no empty and no single-dot part. As zerver/deployment/site.py has it.
type Zulip::Path = Pattern[/\A(\/(?!\.?(\/|\z))[A-Za-z0-9_.+@:,=~-]+)+\z/]
