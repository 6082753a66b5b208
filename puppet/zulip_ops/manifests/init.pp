# On the Nagios server: a service for each queue, and those for consumers and workers' errors, asked of the workers' host
# over NRPE, where zulip::nagios answers. The queues are those of zulip::base; declare it here with
# manage_user and manage_directories false.
#
# @param host_name  The workers' host, as Nagios calls it; several with commas between them.
# @param email  Who is told.
class zulip_ops (
  Pattern[/\A[A-Za-z0-9][A-Za-z0-9_.-]*(,[A-Za-z0-9][A-Za-z0-9_.-]*)*\z/] $host_name = 'localhost',
  Pattern[/\A[A-Za-z0-9_.+-]+@[A-Za-z0-9.-]+\z/] $email = 'root@localhost',
) {
  include zulip::base

  if $zulip::base::normal_queues.empty {
    fail('no queue is declared that workers should be at: ./manage.py queue_config normal-queues --write lists them')
  }

  $app_name = $zulip::base::app_name
  $of_queues = $zulip::base::normal_queues.map |String $queue| {
    $check = { 'name' => "${app_name}_queue_${queue}", 'description' => "${app_name} queue ${queue}" }
    $check
  }

  file { "${zulip::base::root}/etc/nagios4/conf.d/${app_name}.cfg":
    ensure  => file,
    owner   => 'root',
    group   => 'root',
    mode    => '0644',
    content => epp('zulip_ops/services.cfg.epp', {
      'app_name'  => $app_name,
      'host_name' => $host_name,
      'email'     => $email,
      'checks'    => $of_queues + [
        { 'name' => "${app_name}_consumers", 'description' => "${app_name} consumers" },
        { 'name' => "${app_name}_worker_errors", 'description' => "${app_name} worker errors" },
      ],
    }),
  }
}
