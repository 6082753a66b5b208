# Which of supervisord's files hold our workers, and how: { path => true } where each worker has a process, false where
# one process has all queues. ZULIP_ROOT, in the environment, stands before every path.
Facter.add(:zulip_queue_modes) do
  setcode do
    Dir.glob("#{ENV['ZULIP_ROOT']}/etc/supervisor/conf.d/*.conf").each_with_object({}) do |path, modes|
      begin
        text = File.binread(path)
      rescue SystemCallError
        next
      end
      next unless text.include?('./manage.py queue_config supervisor')

      modes[path] = !text.include?(' process_queue --multi_threaded ')
    end
  end
end
