# Whether each worker gets a process of its own on a host with so much memory; what it is now, or true, where that is not
# known. zerver/deployment/memory.py says the same; the tests compare them.
#
# Workers may have half of the memory. Where one process has all queues now, a quarter more than they need must be there:
# else a host at the edge would change with every few MB.
#
# @param workers  Of all queues.
# @param worker_mb  What a process takes.
# @param memory_mb  Of the host.
# @param is_multiprocess  As it is now; undef where nothing runs yet.
function zulip::multiprocess(
  Integer[1] $workers,
  Integer[1] $worker_mb,
  Optional[Integer[0]] $memory_mb,
  Optional[Boolean] $is_multiprocess,
) >> Boolean {
  $needed_mb = $workers * $worker_mb
  if $memory_mb =~ Undef {
    $is_multiprocess =~ Undef or $is_multiprocess
  } elsif $is_multiprocess == false {
    $needed_mb * 5 <= $memory_mb * 2
  } else {
    $needed_mb * 2 <= $memory_mb
  }
}
