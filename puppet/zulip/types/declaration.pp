# What is declared of a queue.
type Zulip::Declaration = Struct[{
  workers      => Integer[1],
  stop_seconds => Integer[1],
}]
