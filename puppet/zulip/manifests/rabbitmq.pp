# RabbitMQ on this host: server, limits, and the one vhost and user that the application has of it.
#
# The password stands in a file of the host and nowhere else: rabbitmqctl reads it from there as its standard input, so
# that neither catalog nor reports, logs or lists of processes have it.
#
# @param password_file  Of the user: one line, and nothing else. The same as QUEUE_PASSWORD_FILE of the workers.
# @param vhost  What the application has to itself; made, and never removed.
# @param user  Who the application is to the broker.
# @param tags  The user's; monitoring lets it ask the management API, for QUEUE_MANAGEMENT_URL.
# @param configure  The queues that it may declare, as a regular expression.
# @param write  Where it may publish.
# @param read  Where it may consume.
# @param keep_guest  Every fresh broker has a user guest who may do everything from this host; unless wanted, it goes.
# @param listeners  ADDRESS:PORT of each; [] where others (TLS) stand in settings.
# @param management_listener  ADDRESS:PORT of the management API.
# @param plugins  All that are on.
# @param memory_watermark  From this part of the host's memory on, publishers are blocked.
# @param disk_free_limit  And from so little free disk on.
# @param open_files  Descriptors: one for each connection and queue, and some more.
# @param quorum_log_mb  What quorum queues keep in memory before it goes to other files, up to three times as much for
#   moments. RabbitMQ's own 512 MB would be over the watermark of a small host.
# @param consumer_timeout_seconds  For so long a worker may hold an event; twice every queue's timeout_seconds, at least.
# @param settings  Further lines of rabbitmq.conf, and no passwords: everybody may read it.
# @param manage_server  Whether package and service are here; false where they come from elsewhere.
# @param rabbitmqctl  The program.
class zulip::rabbitmq (
  Zulip::Path $password_file,
  Pattern[/\A[A-Za-z0-9_\/][A-Za-z0-9_.\/-]*\z/] $vhost = $zulip::base::app_name,
  Pattern[/\A[A-Za-z0-9_][A-Za-z0-9_.-]*\z/] $user = $zulip::base::app_name,
  Array[Pattern[/\A[a-z_]+\z/]] $tags = ['monitoring'],
  Zulip::RabbitmqNames $configure = '.*',
  Zulip::RabbitmqNames $write = '.*',
  Zulip::RabbitmqNames $read = '.*',
  Boolean $keep_guest = false,
  Array[Zulip::Listener] $listeners = ['127.0.0.1:5672'],
  Zulip::Listener $management_listener = '127.0.0.1:15672',
  Array[Pattern[/\A[a-z][a-z0-9_]*\z/]] $plugins = ['rabbitmq_management'],
  Float[0.05, 0.9] $memory_watermark = 0.4,
  Pattern[/\A[0-9]+[MG]B\z/] $disk_free_limit = '2GB',
  Integer[1024] $open_files = 65536,
  Integer[16, 4096] $quorum_log_mb = 64,
  Integer[1] $consumer_timeout_seconds = 1800,
  Hash[Pattern[/\A(?!.*pass)[a-z0-9_.]+\z/], Pattern[/\A[^[:cntrl:]#]+\z/]] $settings = {},
  Boolean $manage_server = true,
  Zulip::Path $rabbitmqctl = '/usr/sbin/rabbitmqctl',
) inherits zulip::base {
  $impatient = $zulip::base::queue_declarations.filter |String $queue, Hash $declared| {
    $declared['timeout_seconds'] * 2 > $consumer_timeout_seconds
  }
  unless $impatient.empty {
    $needed = max(*$impatient.values.map |Hash $declared| { $declared['timeout_seconds'] }) * 2
    fail("consumer_timeout_seconds: timeout_seconds of ${impatient.keys.join(', ')} is over half of ${consumer_timeout_seconds}, and their workers would not start; give ${needed} or more")
  }

  $etc = "${zulip::base::root}/etc"
  file { ["${etc}/rabbitmq", "${etc}/systemd/system/rabbitmq-server.service.d"]:
    ensure => directory,
  }
  $files = {
    "${etc}/rabbitmq/rabbitmq.conf"                                      => epp('zulip/rabbitmq/rabbitmq.conf.epp', {
      'listeners'                => $listeners,
      'management_listener'      => $management_listener,
      'memory_watermark'         => $memory_watermark,
      'disk_free_limit'          => $disk_free_limit,
      'quorum_log_mb'            => $quorum_log_mb,
      'consumer_timeout_seconds' => $consumer_timeout_seconds,
      'settings'                 => $settings,
    }),
    "${etc}/rabbitmq/enabled_plugins"                                    => "[${plugins.join(',')}].\n",
    "${etc}/systemd/system/rabbitmq-server.service.d/${zulip::base::app_name}.conf" => "[Service]\nLimitNOFILE=${open_files}\n",
  }
  $files.each |String $path, String $content| {
    file { $path:
      ensure  => file,
      owner   => 'root',
      group   => 'root',
      mode    => '0644',
      content => $content,
      before  => Exec['zulip: vhost'],
    }
  }

  if $manage_server {
    # After its files: Debian starts it as soon as it is installed, and else it would listen everywhere for a moment.
    package { 'rabbitmq-server':
      ensure  => installed,
      require => File[$files.keys],
    }
    exec { 'zulip: systemctl daemon-reload':
      command     => 'systemctl daemon-reload',
      path        => ['/usr/bin', '/bin'],
      onlyif      => 'test -d /run/systemd/system',
      refreshonly => true,
      subscribe   => File["${etc}/systemd/system/rabbitmq-server.service.d/${zulip::base::app_name}.conf"],
    }
    service { 'rabbitmq-server':
      ensure    => running,
      enable    => true,
      require   => [Package['rabbitmq-server'], Exec['zulip: systemctl daemon-reload']],
      subscribe => File[$files.keys],
      before    => Exec['zulip: vhost'],
    }
  }

  $ctl = "'${rabbitmqctl}' --silent"
  Exec {
    provider => shell,
    path     => ['/usr/sbin', '/usr/bin', '/sbin', '/bin'],
  }

  # A broker that has just been started takes a moment. From 3.11 on a vhost has a type for queues that say none.
  $has_vhost = "${ctl} list_vhosts | grep -Fqx -- '${vhost}'"
  exec { 'zulip: vhost':
    command   => "${has_vhost} || { ${ctl} help add_vhost | grep -Fq -- --default-queue-type && type='--default-queue-type quorum'; ${ctl} add_vhost '${vhost}' \$type; }",
    unless    => $has_vhost,
    tries     => 6,
    try_sleep => 5,
  }

  # rabbitmqctl would cut blanks off the ends and read no second line; workers do neither. And from 3.13 on it reads at
  # all only where nothing stands beside verb and name: with an option more it waits for ever.
  $is_password = "awk 'NR > 1 || /^[[:space:]]|[[:space:]]\$/ || \$0 == \"\" { bad = 1 } END { exit bad || !NR }' '${password_file}'"
  $refusal = "${password_file}: put the password of user ${user} there, and nothing else: one line, without blanks at its ends"
  exec { 'zulip: user':
    command => "${is_password} || { echo '${refusal}'; exit 1; }; if ${ctl} list_users | cut -f1 | grep -Fqx -- '${user}'; then '${rabbitmqctl}' change_password '${user}' < '${password_file}'; else '${rabbitmqctl}' add_user '${user}' < '${password_file}'; fi",
    unless  => "${is_password} && '${rabbitmqctl}' authenticate_user '${user}' < '${password_file}'",
    require => Exec['zulip: vhost'],
  }

  exec { 'zulip: tags of the user':
    command => "${ctl} set_user_tags '${user}' ${tags.join(' ')}",
    unless  => "${ctl} list_users | grep -Fqx -- \"\$(printf '%s\\t[%s]' '${user}' '${tags.join(', ')}')\"",
    require => Exec['zulip: user'],
  }

  exec { 'zulip: permissions of the user':
    command => "${ctl} set_permissions -p '${vhost}' '${user}' '${configure}' '${write}' '${read}'",
    unless  => "${ctl} list_permissions -p '${vhost}' | grep -Fqx -- \"\$(printf '%s\\t%s\\t%s\\t%s' '${user}' '${configure}' '${write}' '${read}')\"",
    require => Exec['zulip: user'],
  }

  unless $keep_guest or $user == 'guest' {
    exec { 'zulip: no guest':
      command => "${ctl} delete_user guest",
      onlyif  => "${ctl} list_users | cut -f1 | grep -Fqx guest",
      require => Exec['zulip: user'],
    }
  }
}
