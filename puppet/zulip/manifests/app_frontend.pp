# supervisord's programs: one for each queue, and the scheduler.
#
# @param environment  Variables of all programs; a password goes into a file that QUEUE_PASSWORD_FILE names.
# @param nice  Workers give way to the web server.
# @param queue_workers  Worker processes of some queues on this host, where they differ from what is declared.
# @param queue_workers_multiprocess  A process for each worker; false: one for all queues, which takes less memory, and
#   queue_workers cannot be given. Unless it is given, by the memory of the host; who gives queue_workers wants processes.
# @param queue_worker_mb  Memory that a worker process takes.
# @param scheduler  Whether queue_scheduler runs on this host; one is enough for all hosts, and several do no harm.
class zulip::app_frontend (
  Hash[String, String] $environment = {},
  Integer[-20, 19] $nice = 10,
  Hash[String[1], Integer[1]] $queue_workers = {},
  Optional[Boolean] $queue_workers_multiprocess = undef,
  Integer[1] $queue_worker_mb = 100,
  Boolean $scheduler = true,
) {
  include zulip::base

  # Not by the parameter's type: puppet would show the value that does not fit. As zerver/deployment/site.py has it.
  $environment.each |String $name, String $value| {
    if $name !~ /\A[A-Za-z_][A-Za-z0-9_]*\z/ {
      fail("environment: ${name}: use letters, digits and _, no digit first")
    }
    if $name =~ /(?i:(PASSWORD|PASSWD|PASSPHRASE|SECRET(_ACCESS)?(_KEY)?|TOKEN|API_KEY|PRIVATE_KEY)\z|(\A|_)(PG)?PASS\z|\AQUEUE_BODY_KEYS\z)/ or $value =~ /:\/\/[^@\s]*:(?m:.*)@|\b(?i:password=)/ {
      fail("environment: ${name} holds a secret, and the file is none: see QUEUE_PASSWORD_FILE and QUEUE_BODY_KEYS_FILE")
    }
    if $value =~ /["'\\%$`[:cntrl:]]/ {
      fail("environment: ${name}: its value has a quote, %, $, a backslash, a tab or a line's end")
    }
    if $value =~ /[[:space:]][;#]/ {
      fail("environment: ${name}: its value has a ; or # after a space, where a comment begins")
    }
  }

  if $zulip::base::normal_queues.empty {
    fail('no queue is declared that workers should be at: ./manage.py queue_config normal-queues --write lists them')
  }

  $unknown = $queue_workers.keys - $zulip::base::normal_queues
  unless $unknown.empty {
    fail("queue_workers names queues that nothing declares: ${unknown.join(', ')}")
  }

  if $queue_workers_multiprocess == false and !$queue_workers.empty {
    fail('queue_workers are processes: with queue_workers_multiprocess => false there is one, with a thread for each worker declared')
  }

  # With each queue what is true of it here.
  $programs = $zulip::base::normal_queues.map |String $queue| {
    $declared = $zulip::base::queue_declarations[$queue]
    $declared + { 'queue' => $queue, 'workers' => $queue_workers.get($queue, $declared['workers']) }
  }

  $configuration = "${zulip::base::root}/etc/supervisor/conf.d/${zulip::base::app_name}.conf"
  $is_multiprocess = $facts['zulip_queue_modes'].then |Hash $modes| { $modes[$configuration] }
  $workers = $programs.reduce(0) |Integer $sum, Hash $program| { $sum + $program['workers'] }
  if $queue_workers_multiprocess !~ Undef {
    $multiprocess = $queue_workers_multiprocess
  } elsif !$queue_workers.empty {
    $multiprocess = true
  } else {
    $multiprocess = zulip::multiprocess($workers, $queue_worker_mb, $facts['zulip_memory_mb'], $is_multiprocess)
  }
  # Told once: the next time, the file says so already. Of a host where nothing runs yet, what is usual is not told.
  if $multiprocess != ($is_multiprocess =~ Undef or $is_multiprocess) {
    $mode = $multiprocess ? {
      true    => 'a process for each worker',
      default => 'one process for all queues, a thread for each worker',
    }
    $change = $is_multiprocess ? {
      undef   => '',
      default => '; until now it was not so',
    }
    notify { $configuration:
      message => "${mode}${change} (${workers} workers at ${queue_worker_mb} MB; the host has ${facts['zulip_memory_mb']} MB)",
      before  => File[$configuration],
    }
  }

  file { $configuration:
    ensure  => file,
    owner   => 'root',
    group   => 'root',
    mode    => '0644',
    content => epp('zulip/supervisor/programs.conf.epp', {
      'app_name'      => $zulip::base::app_name,
      'user'          => $zulip::base::user,
      'directory'     => $zulip::base::directory,
      'python'        => $zulip::base::python,
      'log_directory' => $zulip::base::log_directory,
      'nice'          => $nice,
      'variables'     => { 'HOME' => $zulip::base::home, 'USER' => $zulip::base::user } + $environment,
      'programs'      => $programs,
      'multiprocess'  => $multiprocess,
      'scheduler'     => $scheduler and $zulip::base::has_scheduler,
    }),
  }
  # What monitoring plugins read, which import no Django.
  file { "${zulip::base::root}/etc/${zulip::base::app_name}/queues.json":
    ensure  => file,
    owner   => 'root',
    group   => 'root',
    mode    => '0644',
    content => epp('zulip/queues.json.epp', { 'programs' => $programs }),
  }
}
