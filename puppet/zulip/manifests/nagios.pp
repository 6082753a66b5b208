# On the workers' host: cron runs the plugins as the workers' user, and NRPE tells what they found. The services that ask
# for it are written by zulip_ops, on the Nagios server.
#
# @param plugin_directory  Where the plugins are; pip puts them beside its python.
# @param stats_directory  The workers' QUEUE_STATE_DIR.
# @param state_directory  Where what they found is left.
# @param hosts  That each run what is declared.
# @param broker_options  Of the plugins that ask the broker: '--hostname=rabbit1', '--password-file=/etc/…'.
# @param database_options  Of the plugin that asks the database: '--database=service=shop'.
class zulip::nagios (
  Optional[Zulip::Path] $plugin_directory = undef,
  Optional[Zulip::Path] $stats_directory = undef,
  Zulip::Path $state_directory = '/var/lib/nagios_state',
  Integer[1] $hosts = 1,
  Array[String[1]] $broker_options = [],
  Array[String[1]] $database_options = [],
) {
  include zulip::base

  # What the plugins' own parsers know; these judge values too, and what goes together, where queue_config asks them.
  $known = {
    'broker_options'   => [
      '--hostname', '--port', '--username', '--password-file', '--vhost', '--tls', '--cafile', '--management-url',
      '--rabbitmqctl', '--timeout',
    ],
    'database_options' => [
      '--warning', '--critical', '--since', '--task-warning', '--task-critical', '--schedule-warning',
      '--schedule-critical', '--sqlite', '--database', '--hostname', '--port', '--timeout',
    ],
  }
  # Not by the parameters' type: puppet would show what does not fit. As zerver/deployment/nagios.py has it.
  $given = { 'broker_options' => $broker_options, 'database_options' => $database_options }
  $given.each |String $parameter, Array $options| {
    $options.each |String $option| {
      $called = $option.split('=')[0]
      if $option =~ /(?i:password=)|:\/\/[^@\/]*:[^@]*@/ {
        fail("option ${called} holds a password, and the file is none")
      }
      if $option !~ /\A--[a-z-]+(=[A-Za-z0-9_.\/:@,+=-]+)?\z/ {
        fail("option ${called}: give --name=value, of letters, digits and _./:@,+=-")
      }
      unless $called in $known[$parameter] {
        fail("option ${called}: ${parameter} are of ${known[$parameter].join(', ')}")
      }
    }
  }

  if $zulip::base::normal_queues.empty {
    fail('no queue is declared that workers should be at: ./manage.py queue_config normal-queues --write lists them')
  }

  $app_name = $zulip::base::app_name
  $plugins = $plugin_directory ? {
    undef   => $zulip::base::python.regsubst(/\/[^\/]+\z/, ''),
    default => $plugin_directory,
  }
  $stats = $stats_directory ? {
    undef   => "${zulip::base::directory}/var/queue",
    default => $stats_directory,
  }

  # As cron runs them: one run of the first looks at all queues, and leaves a file for each.
  $declarations = "--declarations=/etc/${app_name}/queues.json"
  $stats_option = "--stats-dir=${stats}"
  $of_queues = ["${plugins}/check-rabbitmq-queue", $declarations, $stats_option] + $broker_options + ['--per-queue']
  $consumers = ["${plugins}/check-rabbitmq-consumers", $declarations, "--hosts=${hosts}", $stats_option] + $broker_options
  $errors = ["${plugins}/check-queue-worker-errors", $declarations] + $database_options
  $lines = {
    "${app_name}_queue"         => $of_queues.join(' '),
    "${app_name}_consumers"     => $consumers.join(' '),
    "${app_name}_worker_errors" => $errors.join(' '),
  }
  $checks = $zulip::base::normal_queues.map |String $queue| { "${app_name}_queue_${queue}" }
    + ["${app_name}_consumers", "${app_name}_worker_errors"]

  file { "${zulip::base::root}${state_directory}":
    ensure => directory,
    owner  => $zulip::base::user,
    group  => $zulip::base::group,
    mode   => '0755',
  }
  file {
    default:
      ensure => file,
      owner  => 'root',
      group  => 'root',
      mode   => '0644',
      ;
    "${zulip::base::root}/etc/cron.d/${app_name}":
      content => epp('zulip/nagios/cron.epp', {
        'app_name'        => $app_name,
        'user'            => $zulip::base::user,
        'state_directory' => $state_directory,
        'lines'           => $lines,
      }),
      ;
    "${zulip::base::root}/etc/nagios/nrpe.d/${app_name}.cfg":
      content => epp('zulip/nagios/nrpe.cfg.epp', {
        'app_name'        => $app_name,
        'plugins'         => $plugins,
        'state_directory' => $state_directory,
        'checks'          => $checks,
      }),
      ;
  }
}
