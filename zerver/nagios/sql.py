"""What is asked of the tables: the same on PostgreSQL and SQLite, each answered by an index.

Parameters are written as SQLite has them, ``:since``. ``zerver_suspect`` has no index on times: its rows are those of
events that are not settled yet, and few. Nor has ``zerver_schedule`` one on ticks: it has a row for each schedule.
"""

#: Milliseconds since the epoch, as the tables have them.
NOW_POSTGRESQL = "SELECT CAST(EXTRACT(EPOCH FROM statement_timestamp()) * 1000 AS bigint)"
NOW_SQLITE = "SELECT CAST(ROUND((julianday('now') - 2440587.5) * 86400000.0) AS INTEGER)"

FAILED = (
    "SELECT queue, COUNT(*) FROM zerver_failed_event"
    " WHERE failed_at_ms >= :since AND state = 'failed' GROUP BY queue"
)
#: At least two processes may have died of it. One is no sign: it may have been told to stop, or lost its connection,
#: and what it had merely fetched comes again too.
SUSPECTS = (
    "SELECT queue, COUNT(*) FROM zerver_suspect"
    " WHERE last_started_at_ms >= :since AND crashes >= 2 GROUP BY queue"
)
PAUSED = "SELECT queue FROM zerver_paused_queue"
#: Each queue that has rows, by one look into the index for the next: the table may be long, and its queues are few.
QUEUES = (
    "WITH RECURSIVE named(queue) AS ("
    "SELECT MIN(queue) FROM zerver_event"
    " UNION ALL"
    " SELECT (SELECT MIN(queue) FROM zerver_event WHERE queue > named.queue) FROM named WHERE queue IS NOT NULL"
    ") SELECT queue FROM named WHERE queue IS NOT NULL"
)
#: The next that a worker would take.
FIRST_DUE = (
    "SELECT available_at_ms, published_at_ms FROM zerver_event"
    " WHERE queue = :queue AND available_at_ms <= :now ORDER BY available_at_ms, id LIMIT 1"
)

#: Projects without ``zerver.tasker`` have no table of tasks.
HAS_TASKS_POSTGRESQL = "SELECT to_regclass('zerver_task') IS NOT NULL"
HAS_TASKS_SQLITE = "SELECT EXISTS (SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'zerver_task')"
#: Likewise, of tasks that are open.
TASK_QUEUES = (
    "WITH RECURSIVE named(queue) AS ("
    "SELECT MIN(queue) FROM zerver_task WHERE state IN ('scheduled', 'running')"
    " UNION ALL SELECT (SELECT MIN(queue) FROM zerver_task"
    " WHERE queue > named.queue AND state IN ('scheduled', 'running')) FROM named WHERE queue IS NOT NULL"
    ") SELECT queue FROM named WHERE queue IS NOT NULL"
)
#: Since when the oldest that is due has been; of what is created with a past time, since it was created. One that was
#: left for a process that knows its type is due as well, though it is looked at again later.
OLDEST_DUE_TASK = (
    "SELECT MIN(CASE WHEN since_ms < created_at_ms THEN created_at_ms ELSE since_ms END) FROM ("
    "SELECT created_at_ms, CASE WHEN state = 'scheduled' THEN scheduled_at_ms ELSE available_at_ms END AS since_ms"
    " FROM zerver_task WHERE queue = :queue AND state IN ('scheduled', 'running')"
    " AND (available_at_ms <= :now OR (state = 'scheduled' AND scheduled_at_ms <= :now))) AS due"
)

#: Projects without ``zerver.schedule`` have no table of schedules.
HAS_SCHEDULES_POSTGRESQL = "SELECT to_regclass('zerver_schedule') IS NOT NULL"
HAS_SCHEDULES_SQLITE = (
    "SELECT EXISTS (SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'zerver_schedule')"
)
_OLDEST_DUE_SCHEDULE = (
    "SELECT name, next_at_ms, is_declared, problem FROM zerver_schedule"
    " WHERE NOT is_paused AND next_at_ms <= :now AND {} ORDER BY next_at_ms LIMIT 1"
)
#: Whoever finds something wrong with one writes that down, and is to look again in a minute. Nobody does on the dot:
#: only what should have been looked at before ``:lately`` is looked at by nobody.
UNATTENDED_SCHEDULE = _OLDEST_DUE_SCHEDULE.format("(problem = '' OR look_at_ms <= :lately)")
FAILING_SCHEDULE = _OLDEST_DUE_SCHEDULE.format("problem <> '' AND look_at_ms > :lately")
