# Who runs the application, where it lives, and the one list of queues from which all else follows.
#
# Queues are declared in the application's code, by @assign_queue. The list below is written from there:
#   ./manage.py queue_config normal-queues --write
# and the same with --check fails where it differs.
#
# @param app_name  Programs and configuration files are called after it.
# @param user  Who runs the workers.
# @param group  The user's, and the logs'.
# @param home  The user's.
# @param directory  Where manage.py is.
# @param python  The interpreter that has the application's packages.
# @param log_directory  Where the workers' logs go.
# @param manage_user  Whether user and group are made here; false where they come from elsewhere.
# @param manage_directories  Whether those of logs and configuration are made here; false where they come from elsewhere,
#   or where the list is all that is wanted, as on a Nagios server.
# @param root  Stands before every path that is written: for images, and to try what would be written.
#   Give it to puppet as ZULIP_ROOT in the environment too: the facts look at what is there.
class zulip::base (
  Pattern[/\A[a-z][a-z0-9_-]{0,31}\z/] $app_name = 'zulip',
  Pattern[/\A[a-z][a-z0-9_-]{0,31}\z/] $user = $app_name,
  Pattern[/\A[a-z][a-z0-9_-]{0,31}\z/] $group = $user,
  Zulip::Path $home = $user ? { 'root' => '/root', default => "/home/${user}" },
  Zulip::Path $directory = "${home}/deployments/current",
  Zulip::Path $python = "${directory}/.venv/bin/python",
  Zulip::Path $log_directory = "/var/log/${app_name}",
  Boolean $manage_user = true,
  Boolean $manage_directories = true,
  Variant[Enum[''], Zulip::Path] $root = '',
) {
  # begin: written by ./manage.py queue_config normal-queues --write
  $normal_queues = [
    'incoming_webhooks',
    'user_activity',
    'zerver_dead',
  ]
  # What is declared of each: worker processes, and handlers in each; how long one may take to drain, and
  # for one event; and the backlog from which on to warn.
  $queue_declarations = {
    'incoming_webhooks' => { 'workers' => 1, 'threads' => 1, 'stop_seconds' => 45, 'timeout_seconds' => 30.0, 'warn_seconds' => 30.0, 'crit_seconds' => 60.0 },
    'user_activity' => { 'workers' => 1, 'threads' => 1, 'stop_seconds' => 45, 'timeout_seconds' => 30.0, 'warn_seconds' => 30.0, 'crit_seconds' => 60.0 },
    'zerver_dead' => { 'workers' => 1, 'threads' => 1, 'stop_seconds' => 45, 'timeout_seconds' => 30.0, 'warn_seconds' => 30.0, 'crit_seconds' => 60.0 },
  }
  # Whether the code has schedules, which queue_scheduler has tick.
  $has_scheduler = true
  # end

  if $manage_user {
    group { $group:
      ensure => present,
      system => true,
    }
    user { $user:
      ensure     => present,
      gid        => $group,
      home       => $home,
      managehome => false,
      shell      => '/bin/bash',
      system     => true,
    }
    if $manage_directories {
      User[$user] -> File["${root}${log_directory}"]
    }
  }

  if $manage_directories {
    file { "${root}${log_directory}":
      ensure => directory,
      owner  => $user,
      group  => $group,
      mode   => '0750',
    }

    file { "${root}/etc/${app_name}":
      ensure => directory,
      owner  => 'root',
      group  => 'root',
      mode   => '0755',
    }
  }
}
