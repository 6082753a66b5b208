# Memory that workers may take on this host, in MiB: all of it, or less where a cgroup has a limit: the container that
# this is, or supervisord's service. ZULIP_ROOT, in the environment, stands before every path. zerver/deployment/memory.py
# reads the same; the tests compare them.
Facter.add(:zulip_memory_mb) do
  setcode do
    root = ENV['ZULIP_ROOT'].to_s
    read = lambda do |path|
      begin
        File.binread(root + path)
      rescue SystemCallError
        ''
      end
    end

    total = read.call('/proc/meminfo')[/^MemTotal:\s+(\d+) kB$/, 1]
    unless total.nil?
      files = ['', '/system.slice', '/system.slice/supervisor.service', '/system.slice/supervisord.service'].flat_map do |group|
        ["/sys/fs/cgroup#{group}/memory.max", "/sys/fs/cgroup/memory#{group}/memory.limit_in_bytes"]
      end
      # The word max is no limit.
      limits = files.map { |file| read.call(file)[/\A(\d+)\s*\z/, 1] }.compact.map(&:to_i)
      [total.to_i * 1024, *limits].min / 1_048_576
    end
  end
end
