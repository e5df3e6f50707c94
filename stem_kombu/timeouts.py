"""Timeouts, intervals and ages of the product, grouped by room, in seconds.

A name in ``_SHARE`` is a share of the time that its line names, and one in ``_INTERVALS`` a number of heartbeat intervals. What
an operator sets is in :mod:`stem_kombu.settings`. The page ``docs/architecture.md`` lists where each is used.
"""

from __future__ import annotations

# Connections to brokers, and sending (transports/)
BROKER_CONNECT = 4.0  #: a TCP connection with its login, to a broker
BROKER_REPLY = 10.0  #: one answer of a broker; more than the longest blocking read of Redis
BROKER_CLOSE = 1.0  #: each step of closing a connection
#: AMQP heartbeats; after two without an answer a connection counts as lost. With ``health_page.CONSUMES_WITHIN`` a worker is not
#: ready after 40 s: five less than G34 promises.
BROKER_HEARTBEAT = 12.0
#: one blocking read of an idle Redis connection. Closing waits for it, and a command that took 3 ms should end at once; less than
#: a second needs Redis 6.
IDLE_READ = 0.1
DRAIN = 0.05  #: one wait for events of a connection, in a thread that also looks at its clock
REDIS_LEASE = 60  #: a message on Redis stays with a worker that renews it no longer
REDIS_SWEEP = 10  #: between two looks for messages on Redis whose lease has ended
BROKER_LEASE = 60.0  #: the same on Kombu's SQL and filesystem brokers, unless the option says otherwise
LEASED_SWEEP = 5.0  #: between two looks there for messages of dead workers; a sixth of a short lease
LEASED_FIRST_LOOK = 0.01  #: between two looks there at queues, after a message
LEASED_LONGEST_LOOK = 0.25  #: the same, after a while without messages
GIVE_BACK_LOOK = 0.5  #: between two looks at leases that have not ended yet
SEND = 10.0  #: one call that sends tasks, reconnecting included
ALARM_PATIENCE = 3.0  #: a sender waits for the end of RabbitMQ's resource alarm
ALARM_LOOK = 0.25  #: between two looks for that end
CONFIRMED_LATELY = 0.5  #: a broker that has confirmed a message is expected to accept the next
WRITTEN_LATELY = 10.0  #: what was written before has reached RabbitMQ, or the connection is known to be lost
UNCONFIRMED_CLOSE = 5.0  #: RabbitMQ gets at the close of a connection to read what was written
FRAME_REST = 5.0  #: the rest of a frame whose beginning has come, or the writing of an acknowledgement
#: RabbitMQ's own default limit for an unacknowledged message, which it tells no client.
#: Source: https://www.rabbitmq.com/docs/consumers#acknowledgement-timeout
AMQP_CONSUMER = 1800.0
AMQP_LONGEST_HOLD = 900.0  #: a delivery whose eta is further off goes back, well before that limit
GATHER = 0.0015  #: between two turns of a consumer that has more messages than its slots use meanwhile
GENERIC_READ = 0.02  #: one blocking read that nothing can interrupt: an acknowledgement waits for it
GENERIC_LAST_STEP = 0.05  #: each step of closing a connection that has just failed
CONTROL_WAIT_ENDS = 1.0  #: a thread that closes a control connection waits so long for another one to leave it
CONTROL_QUEUE_EXPIRES = 60.0  #: the broker removes a control queue that is not used
SAME_OUTAGE_LOG = 60.0  #: between two log lines that say the same about one server
CHANGED_OUTAGE_LOG = 15.0  #: between two log lines about one server
RECONNECT_LONGEST = 2.0  #: between two attempts to reach a server, at most
OUTAGE_ROUND = 0.05  #: failures of several connections count as one
RECONNECT_SPREAD = 0.02  #: between two connections that try the server again
DEPTHS_CONNECT = 1.5  #: a connection that asks for the depths of queues
DEPTHS_QUIET = 2.0  #: depths are not asked for after a failure, so that `stats` does not wait
BROKER_PROBE = 2.0  #: a probe's message to itself comes back
BROKER_PROBE_AGAIN = 0.02  #: between two of these messages
BROKER_PROBE_EXPIRES = 10.0  #: the broker drops a probe's queue that the probe could not remove
ALARM_CHECK = 3.0  #: RabbitMQ confirms a message, or reports its alarm
MARKER_EXPIRES = 10.0  #: the broker removes the queue of a check that could not do so
SENTINEL_REPLY = 2.0  #: one answer of a sentinel
EMPTY_FILE = 60.0  #: a sender writes into the file that it has made; an older empty file is damaged
SQL_CONNECT = 4  #: a connection to the database of Kombu's SQL broker
SQL_TRANSACTION = 10.0  #: one transaction there
SQL_LOOK = 1.0  #: between two looks whether a transaction takes longer
SQL_POLL = 0.05  #: between two looks of Kombu's own consumers at their queues

# Redis (transports/redis/)
REDIS_QUEUE_SCAN = 2.0  #: the search for queues in a database with many other keys
REDIS_KEEPALIVE = 1.0  #: between two checks of a connection that reads
REDIS_CONTROL_WAIT = 5.0  #: the server lets a reader of control messages wait
REDIS_CONTROL_OVERDUE = 10.0  #: after it a reader without an answer has lost its connection
REDIS_WATCH_TRUSTED = 5.0  #: the server is asked again though it reported no change: a lost connection is noticed
REDIS_FIRST_LOOK = 0.02  #: between two looks at queues where the server can't report changes, after a message
REDIS_LONGEST_LOOK = 0.5  #: the same, after a while without messages
REDIS_OUTRUN_PAUSE = 0.001  #: added to the pause for each message that another worker took first
REDIS_OUTRUN_LONGEST = 0.5  #: that pause, at most
REDIS_REGISTERED = 5  #: a worker of 0.1.0 that waits has registered its landing again
REDIS_REGISTRATION_KEPT = 7 * 86400  #: a registration is kept, longer than TCP can delay a command

# The embedded broker (transports/sqlite/)
EMBEDDED_FILE_LOOK = 1.0  #: between two looks whether the file is still the same
DOORBELL_TRUSTED = 1.0  #: a writer looks again whether a consumer's pipe is there
DOORBELL_LOOKING = 0.002  #: longer than a consumer that was woken waits between two looks
DOORBELL_BUSY = 0.004  #: a consumer that looks again within this time is not woken for each message
KEEPER_ROUND = 0.4  #: between two rounds of the lease keeper: how late it notices a dead owner
ACK_GATHERING = 0.02  #: an acknowledgement waits for others, to be written together
KEEPER_SUSPENDED = 2.0  #: a longer gap between two rounds: the process or the machine was suspended
EMBEDDED_VACUUM = 30.0  #: between two times that free pages are returned to the system
KEEPER_LOG = 60.0  #: between two log lines about rounds that failed
UNLOCKED_OWNER = 60.0  #: without record locks (Windows) an owner counts as dead this long after its lease
EMBEDDED_SWEEP = 0.3  #: between two looks of a session for what dead owners held
EMBEDDED_POLL = 0.001  #: between two looks of a consumer that cannot be woken

# The control link through the store (transports/store/)
STORE_LINK_LOOK = 1.0  #: without a look at the database, as a notification may be lost
STORE_LINK_PROBE = 5.0  #: a probe's message through the store comes back
STORE_LINK_PROBE_EXPIRES = 10.0  #: that message expires
STORE_LINK_PG_QUICK = 0.01  #: between two looks where PostgreSQL can't notify, after a message
STORE_LINK_PG_SLOW = 0.4  #: the same, when nothing comes
STORE_LINK_REDIS_WAIT = 5.0  #: the server lets a reader wait
STORE_LINK_REDIS_OVERDUE = 10.0  #: after it a reader without an answer has lost its connection
STORE_LINK_REDIS_SLICE = 0.05  #: one wait for events of a connection
STORE_LINK_SQLITE_QUICK = 0.002  #: between two looks whether another process has committed, after a message
STORE_LINK_SQLITE_SLOW = 0.05  #: the same, when nothing comes

# Databases (drivers/, stores/)
REDIS_CONNECT = 3.0  #: a connection to Redis as a store, a backend or a roster
REDIS_REPLY = 5.0  #: one answer, or a TLS handshake; a script over 100,000 records takes about one second
REDIS_REPLICATION = 1.0  #: replicas confirm what was written (WAIT)
REDIS_MARKER_LIFE = 10.0  #: Redis removes the marker of a check that could not do so
POSTGRES_CONNECT = 3.0  #: a connection to PostgreSQL
POSTGRES_STATEMENT = 5.0  #: one statement
POSTGRES_GRACE = 1.0  #: beyond it, as the server's own limit leaves the connection usable
SQLITE_LOCK = 5.0  #: the lock of another process on an SQLite file
SQLITE_FIRST_PAUSE = 0.0005  #: between two attempts to get that lock, at first
SQLITE_LONGEST_PAUSE = 0.02  #: the same, at most
SQLITE_CHECK_END = 5.0  #: an interrupted check of a file ends
STORE_FILE_LOCK = 10.0  #: the lock of another process on the file store, whose rewrite takes seconds
HANDSHAKE = 3.0  #: a TLS handshake of Stem's own
HANDSHAKE_AGAIN = 1.0  #: a handshake that finds out why one of a driver has failed
HANDSHAKE_ALERT = 0.3  #: the alert by which a server refuses a client's certificate
MOST_CLOCK_SKEW = 5.0  #: a server's clock that differs by more is reported
ENDED_BEFORE = 86400.0  #: the end of an undone revocation is dated back by this, so that each worker reads it
UNDO_RECOGNISED = 12 * 3600.0  #: an end that was dated back by this is an undo; its proofs are a moment older

# Task states and the roster (backends/)
RESULT_TTL = 7 * 86400.0  #: the record of an ended task is kept, unless the caller says otherwise
UNFINISHED_TTL = 30 * 86400.0  #: the record of an unfinished task is kept, which may wait for its eta or for a worker
RECORD_FIRST_LOOK = 0.005  #: between two looks of a caller that waits for a task, at first
RECORD_LONGEST_LOOK = 0.1  #: the same, at most
RESULT_FIRST_LOOK = 0.005  #: between two looks of a coroutine that waits for a result, at first
RESULT_LONGEST_LOOK = 0.25  #: the same, at most
RECORD_PRUNING = 60.0  #: between two prunings of expired records, while records are written
STALE_INTERVALS = 3.0  #: heartbeat intervals without a heartbeat: the worker is stale
DEAD_INTERVALS = 6.0  #: heartbeat intervals without a heartbeat: the worker is dead
ROSTER_ENTRY_MARGIN = 60.0  #: a roster keeps the entry of a dead worker, so that operators see it
ROSTER_CLOCK_TOLERANCE = 2.0  #: a heartbeat may be dated ahead of the reader's clock by this

# The operator's end of control (control/client/, control/)
NO_WORKER_WINDOW = 0.5  #: a command listens when the roster has no live worker: one may just be starting
RETRY_SHARE = 0.3  #: of the timeout: when no worker has answered by then, silent workers are asked again
RETRY_LATEST = 0.3  #: the same in seconds; the earlier of the two counts
SETTLE_SHARE = 0.4  #: of the timeout: a worker waits for tasks whose stop it requested, at most
SETTLE_LONGEST = 2.0  #: the same in seconds; the shorter of the two counts
ROSTER_SHARE = 0.6  #: of the timeout: the command waits for the roster, then asks all workers
STORE_EACH = 0.001  #: a command has more time, for each revocation that it stores or takes back
NOTE_SHARE = 0.3  #: of the timeout: an order that is to be sent waits for its entry in the audit, then goes without one
NOTE_LATEST = 1.0  #: at the end of a command, its outcome's entry in the audit, or a look at task states
WINDOW_WAIT = 0.03  #: the next message of a command goes out though earlier ones were not answered (G16)
ABSENT_ANSWER = 1.0  #: a worker answers that was named but is not on the roster
CLIENT_REPLY = 10.0  #: one answer of the broker to a client; less where the command has a deadline
CLIENT_LEAST_REPLY = 0.05  #: the same, at least
CLIENT_REPLY_STEP = 0.2  #: the steps in which that limit follows the deadline
CLIENT_DRAIN = 0.05  #: one wait for replies: the caller also looks at its clock
STREAM_REPLY = 10.0  #: one answer of the broker to a reader of the stream of heartbeats
STREAM_DRAIN = 0.05  #: one wait of that reader, which can be interrupted
DIRECTIVE_SETTLE_SHARE = 0.4  #: of the timeout: a worker waits for starts that are under way
DIRECTIVE_SETTLE_LONGEST = 2.0  #: the same in seconds; the shorter of the two counts
QUEUE_RECORDS_LOOK = 2.0  #: the search through task records for queues
ROSTER_CLOCK_RELIANCE = 10.0  #: a client relies on its reading of the roster's clock
ROSTER_CLOCK_STEP = 0.5  #: a client's clock was set, or the machine suspended: the roster is asked again
SHUTDOWN_LOOK = 0.2  #: between two looks at the roster while a shutdown is awaited
VERDICT_GRACE = 2.0  #: a handler in a thread reaches its first checkpoint, unless the caller says otherwise
VERDICT_MARGIN = 10.0  #: a revoke waits by default, beyond its longest step
VERDICT_ROUND = 1.0  #: a worker waits for the tasks of one question
VERDICT_ANSWER = 1.0  #: its answer may take, beyond that
VERDICT_PROBE = 0.3  #: a worker that was silent answers again
VERDICT_FIRST_PAUSE = 0.05  #: between two rounds, at first
VERDICT_LONGEST_PAUSE = 0.5  #: between two rounds, at most
KEY_PROBE = 1.0  #: workers are asked whether they accept the operator's key
KEY_PROBE_SHARE = 0.2  #: of the timeout: the same; the shorter of the two counts
SLOW_RESUME = 86400.0  #: a slow resume ends at the latest: a queue that is never empty must not stay slow
RETRY_NOTE = 7 * 86400.0  #: the note is kept that a task was retried
REVOCATION_END_KEPT = 7 * 86400.0  #: an ended revocation is kept, so that each worker reads its end
DIRECTIVE_END_KEPT = 7 * 86400.0  #: a cleared directive is kept, for the same reason
UNDO_KEPT = 30 * 86400.0  #: an undo can be read
AUDIT_KEPT = 90 * 86400.0  #: entries of the audit are kept, unless the settings say otherwise
RULE_LIFE = 7 * 86400.0  #: a rule expires, unless the operator says otherwise

# The worker's end of control (control/server/)
LONGEST_SETTLE = 30.0  #: a reply waits for tasks to stop at most, whatever the command says
LAST_COMMANDS = 2.0  #: commands under way end when the server closes
LISTENER_START = 15.0  #: a worker's first message to itself comes back
LISTENER_CLOSE = 2.0  #: the control connection closes
RECEIVE_CHECK = 15.0  #: without a broadcast, after which a worker checks that it receives them
CONTROL_CONNECT = 4.0  #: the worker's control connection
CONTROL_REPLY = 5.0  #: one answer of the broker to it
RECEIVE_AGAIN_SOON = 0.05  #: until a worker's message to itself is sent again, at first
RECEIVE_AGAIN_LATER = 1.0  #: the same, later
RECEIVE_SOON = 1.0  #: how long it is sent that often: one worker that receives nothing must not flood the others
RECEIVE_GIVE_UP = 5.0  #: without that message, after which the connection is replaced
COMMAND_CLOCK_TOLERANCE = 2.0  #: two processes' readings of the roster's clock may differ
OUTBOX_CONNECT = 2.0  #: the connection for replies
OUTBOX_REPLY = 5.0  #: one answer of the broker to it
REPLY_LIFE = 15.0  #: a reply that could not be sent is of no use to its client any more
REPLY_EXPIRES = 60.0  #: the broker keeps a reply
LAST_REPLIES = 2.0  #: replies are still sent when the publisher closes
DROP_LOG = 60.0  #: between two log lines about dropped messages

# The agent (agent/): hydration, heartbeats, directives
HYDRATION = 30.0  #: a worker that starts has read the revoke store; it consumes nothing before
CLAIM_LOOK = 0.5  #: between two looks at the roster entry of another worker with the same id
STORE_HOUSEKEEPING = 300.0  #: between two prunings of the revoke store, which also read its clock
BROKER_SWEEP = 300.0  #: between two sweeps of what dead workers left at the broker
LEASE_RENEWAL_SHARE = 1.0 / 3.0  #: of its lifetime: a lease is renewed
LEASE_RETRY = 1.0  #: until a renewal that failed is tried again, at most
SYNC_SHARE = 0.75  #: of the sync interval: the worker reads the store again, unless something makes it do so before
REVOCATION_GRACE = 7 * 86400.0  #: an expired record stays, as a clock that is ahead must delete nothing for good
SYNC_CLOCK_SKEW = 60.0  #: a store's clock that is further off, or steps further, is reported
LEAST_SKEW = 2.0  #: a worker's clock may be off the store's, and still dates next attempts
DIRECTIVE_LOOK = 0.5  #: between two looks at the store's clock while a directive is to end
DIRECTIVE_REMEMBERED = 7 * 86400.0  #: a worker remembers ended directives, as long as a store keeps them
SAMPLE_LEAST_LIFE = 60.0  #: records that end sooner are no sign that the store was set back
SAMPLE_SAME_END = 5.0  #: two ends nearer to each other are the same
HEARTBEAT_LATE_SHARE = 0.1  #: of its interval: a heartbeat may be late
HEARTBEAT_LEAST_LATE = 0.25  #: the same in seconds, at least
HEARTBEAT_MOST_LATE = 5.0  #: the same in seconds, at most

# Stem's worker (worker/)
#: In which a vital thread moves on, whatever it waits for: longer than any server is waited for. After three of these without a
#: stamp a probe reports the thread as stuck, so that a worker is not restarted because something else is down.
MOVES = 20.0
LOOKS = 5.0  #: the same for a thread that waits for nothing but time
STARVING_LOOKS = 15.0  #: between two looks at the depths of queues from which nothing came
CONSUMER_WORKS = 1.0  #: queues were consumed without a message before that counts as working
QUIESCE = 5.0  #: the consumer stops to fetch messages at a shutdown
DELAYED_LONGEST_WAIT = 86400.0  #: the thread of etas waits at most, when nothing is held
STARTS_LOOK = 0.005  #: between two looks at deliveries whose start is under way
LIMIT_AHEAD = 2.0  #: a worker holds the starts that a rate limit allows in this time
LIMIT_LOOK = 5.0  #: between two looks at the roster for workers that share a limit
LIMIT_LOOK_SOON = 1.0  #: the same, while the roster can't be read or a queue may soon be empty
PACE_LATE = 1.0  #: a slot of a rate limit may be used late; one interval where that is longer
PACE_NEW = 1.0  #: since the directive, within which its first slot is still to come
LOST_WORKER_ASK = 1.0  #: until the roster is asked again that gave no answer yet
FETCHED_LATELY = 0.01  #: after a fetch the connection counts as alive; later the worker checks it
PREFETCH_LOOK = 1.0  #: a look for other messages lasts, at first
PREFETCH_LONGEST_LOOK = 4.0  #: the same, at most
PREFETCH_LOOK_EVERY = 0.1  #: between two such looks
RECORD_TRY_LONGEST = 15.0  #: between two attempts to write a record that was set aside
RECORD_PATIENCE = 5.0  #: at a stop, the worker still records and publishes next attempts; the other deliveries go back
AUTOSCALE_LOOK = 2.0  #: between two looks at what waits and what is busy
AUTOSCALE_ROSTER = 10.0  #: between two looks of autoscaling at the roster
SCHEDULE_LOOK = 0.5  #: between two looks at what was scheduled meanwhile
SAME_SIGNAL = 1.0  #: signals within it are one request: terminals and supervisors send the same one twice
MAIN_LOOK = 0.5  #: between two moments at which the main thread runs signal handlers
STUCK_LEAVE = 10.0  #: tasks end when a thread of their worker can't go on
START_FILE_KEPT = 600.0  #: the file of starts of a dead worker is kept
STOP_AGAIN = 1.0  #: between two times that handlers are asked to leave, as one may just be starting
HISTORY_CHECKED = 0.01  #: an older record of a task that came again is read once more before the task starts
HISTORY_QUIET = 5.0  #: after a failure, in which no executor's thread asks the backend again
TASK_LOG_SPAN = 1.0  #: in which a limited number of cancelled tasks have log lines of their own

# Threads (concurrency/)
SERVICE_HURRIED = 5.0  #: a thread ends after `hurry()`
SERVICE_WORKS = 60.0  #: a thread that was started again counts as working
SERVICE_FIRST_PAUSE = 0.1  #: before a thread that failed is started again, at first; doubled each time
SERVICE_LONGEST_PAUSE = 5.0  #: the same, at most
THREAD_IDLE = 30.0  #: a thread without work ends

# Handlers and children (execution/)
CHILDREN_START = 60.0  #: all children load the application
FORK_SERVER_LOAD = 60.0  #: the fork server loads the application
CHILD_START_HOOKS = 30.0  #: the hooks of a child's start
CHILD_END_HOOKS = 4.0  #: the hooks of a child's end with its `atexit` functions; below RETIRE_GRACE
RETIRE_GRACE = 5.0  #: a retired child ends by itself; then SIGKILL
CHILD_RELEASE_GRACE = 1.0  #: between the order to release and SIGKILL
INLINE_RELEASE_GRACE = 1.0  #: inline handlers reach a checkpoint after the order to release
INLINE_PAUSE = 0.2  #: before a job that could not be started goes back
ORPHAN_GRACE = 1.0  #: a handler whose worker has died reaches a checkpoint and cleans up
ORPHANS_END = 3.0  #: children of a dead worker end by themselves
CHECKPOINT_GATE = 0.001  #: between two looks of a checkpoint at the pipe
PROGRESS_GATE = 0.1  #: between two reports of progress; the first and the last are always sent
LADDER_AGAIN = 0.05  #: until a step of a ladder is tried again that met a child's next job
JOB_GOOD_FOR = 0.1  #: the check of a queued job's revocation and lease counts; a child declines a later one
JOB_STUCK = 0.02  #: the worker takes back queued jobs of which a child begins none
REPORTS_GATHER = 0.0003  #: reports of children in a stream of short jobs come together, before the worker reads them
REPORTS_STREAM = 0.004  #: a few jobs that end within this time are a stream
JOB_QUEUE_WORK = 0.02  #: work in a child's queue, by what its last tasks took

# Inside a Celery worker (celery/)
LONG_LEASE = 180.0  #: with a longer lease a Celery guest keeps no thread for renewals, but starts one for each
GUEST_LINGER = 0.5  #: a guest's thread for replies and heartbeats waits for the next one, then ends
GUEST_SAVE = 0.25  #: Celery's event loop waits for the revoke store, once in each outage
GUEST_LAST_SAVES = 2.0  #: a Celery worker that stops still stores revocations
CELERY_SAVE = 1.0  #: `app.control.revoke()` waits for the revoke store, once in each outage
CELERY_LAST_SAVES = 5.0  #: a program that ends still stores the revocations of `app.control.revoke()`
GUEST_STAMP = 2.0  #: between two stamps of Celery's event loop in the health file
GUEST_STARTS_LOOK = 0.005  #: between two looks at tasks whose start is under way
NATIVE_REVOKE_DRAIN = 0.2  #: one wait of the reader of Celery's own revokes
NATIVE_REVOKE_CONNECT = 4.0  #: its connection to the broker
POOL_SHRINK_LOOK = 0.2  #: between two looks for an idle child that can end
GUEST_SAVE_LONGEST = 10.0  #: between two attempts to store revocations
GUEST_PROGRESS = 0.1  #: between two reports of progress to the result backend
GUEST_STOPS_LOOK = 0.002  #: between two looks at tasks whose stop was requested: Celery has no hook for their end
GUEST_STOPS_REMEMBERED = 10.0  #: a stopped task is still answered for: the broadcast may come after the record

# As Celery's monitors see it (celery_monitors/)
CELERY_HEARTBEAT = 2.0  #: between two events `worker-heartbeat`; after two a monitor calls a worker offline
PLAIN_WORKERS_WINDOW = 0.5  #: after the last answer: how many Celery workers will answer is unknown
PLAIN_WORKERS_CONNECT = 4.0  #: the connection that asks them
PLAIN_WORKERS_EXPIRES = 10.0  #: the broker removes the queue for their answers
MONITOR_DRAIN = 0.2  #: one wait for a question: the longest that a task's event waits here
MONITOR_FIRST_DRAIN = 0.01  #: the first such wait, in which Kombu subscribes on Redis; a start waits for it
MONITOR_CONNECT = 4.0  #: the connection to Celery's mailbox
MONITOR_EXPIRES = 60.0  #: Redis drops a queue of this worker that is not consumed
MONITOR_SETTLE = 0.5  #: an answer waits for starts of a paused queue that are under way

# Metrics
METRICS_INTERVAL = 60.0  #: between two reports to an OTLP receiver
METRICS_EXPORT = 10.0  #: one export, its repetitions included

# The command line (stem_kombu_cli/)
CLI_FOLLOW = 1.0  #: between two looks of `audit list --follow`
CLI_HEALTH_ROSTER = 2.0  #: a roster answers `health`
CLI_HEALTH_ALERT = 0.2  #: the alert by which a server refuses the client's certificate
CLI_SWEEP_ROSTER = 2.0  #: a roster answers `worker sweep`
CLI_CLOCK_SKEW = 5.0  #: a store's clock that differs more from this host's is reported
CLI_LOG_LEVEL = 3600.0  #: a log level ends unless the operator says otherwise: debug lines fill a disk
CLI_SHUTDOWN_MARGIN = 10.0  #: a shutdown is awaited beyond its longest step
CLI_RECONNECT = 5.0  #: one attempt to reach a broker that was lost while its heartbeats were followed
CLI_COMPLETION = 0.2  #: completion asks for values, unless STEM_COMPLETION_TIMEOUT says otherwise
CLI_DEMO_END = 10.0  #: processes of the demo end
CLI_OLD_PAUSE = 3600.0  #: commands warn of a pause without an end that is older
CLI_APPLIED_LOOK = 0.25  #: between two looks whether all workers have applied a change
CLI_APPLIED_MARGIN = 10.0  #: they may take, beyond a sync
HTTP_REQUEST = 5.0  #: a client sends its request to the probes' server
CLI_PROGRESS_AFTER = 0.4  #: before a progress line is shown: most commands have ended by then
CLI_PROGRESS_LOOK = 0.1  #: between two versions of that line
CLI_NOTIFY_LOOK = 1.0  #: between two looks whether the worker drains, for the service manager
TOP_TERM_AFTER = 10.0  #: SIGTERM, in the ladder of a key of `top`
TOP_KILL_AFTER = 30.0  #: SIGKILL, in the same ladder
TOP_ANSWER = 10.0  #: the answer to a key stays on the screen
