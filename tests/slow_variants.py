"""The variants of tests that ``make slow`` runs and ``make test`` leaves out: each takes some ten seconds, and another broker,
pool or question of the same test stays in ``make test``, or the test is about a third party's program.

``file::test`` with the parts of the parameters' ids that are slow; ``ALL`` is every variant. A test that is slow in itself has
the mark ``slow`` where it stands.
"""

from __future__ import annotations

ALL = ("",)

SLOW_VARIANTS: dict[str, tuple[str, ...]] = {
    "cli/test_asking.py::test_g13_a_worker_that_does_not_answer_is_named_and_the_exit_code_is_3": ("json",),
    "cli/test_autoscale.py::test_g25_children_come_with_the_work_and_go_after_it": ("amqp", "embedded"),
    "cli/test_bounds.py::test_a_dry_run_says_what_it_is_bound_to_and_nonsense_is_refused": ("amqp", "embedded"),
    "cli/test_killed_commands.py::test_g27_g32_a_revoke_that_is_killed_when_it_is_stored_climbs_its_ladder": (
        "redis-by-id", "amqp-by-rule", "embedded",
    ),
    "cli/test_pausing.py::test_g21_g24_a_pause_that_the_store_has_lost_is_put_back_so_that_it_can_be_ended": (
        "redis", "embedded",
    ),
    "cli/test_pausing.py::test_g22_of_200_tasks_of_a_paused_queue_none_runs_is_lost_or_counts_an_attempt": ("redis", "embedded"),
    "cli/test_rate_limit.py::test_a_queue_is_resumed_slowly_until_it_is_empty": ("redis", "embedded"),
    "cli/test_rate_limit.py::test_g25_of_a_limit_below_one_a_worker_and_minute_one_worker_is_elected": ("redis", "embedded"),
    "cli/test_rate_limit.py::test_g25_workers_share_the_limit_of_a_queue_and_other_queues_go_on": ("amqp", "embedded"),
    "cli/test_shutdown.py::test_g33_a_worker_finishes_what_runs_and_leaves_with_the_code_that_was_asked_for": ("embedded",),
    "cli/test_shutdown.py::test_rolling_goes_on_when_the_next_worker_consumes": ("amqp", "embedded"),
    "cli/test_start.py::test_g20_the_second_signal_returns_what_runs_to_the_queue": (
        "ctrl-c-redis", "SIGTERM-amqp", "embedded",
    ),
    "cli/test_verdicts.py::test_g26_a_silent_worker_makes_a_0_a_3": ("amqp", "embedded"),
    "cli/test_verdicts.py::test_g26_a_worker_that_dies_while_it_is_waited_for_has_lost_its_task": ("amqp", "embedded"),
    "cli/test_verdicts.py::test_g26_the_task_of_a_killed_worker_is_lost": ("amqp", "embedded"),
    "cli/test_wrong_steering.py::test_a_change_for_a_worker_that_is_not_known_says_so_and_how_to_take_it_back": ("embedded",),
    "celery/test_command.py::test_broker_and_backend_are_those_of_the_application": ("amqp",),
    "celery/test_command.py::test_g34_a_probe_of_the_applications_worker_needs_no_broker": ("amqp",),
    "celery/test_command.py::test_help_and_exit_codes_are_those_of_stem": ("redis",),
    "celery/test_control.py::test_celerys_own_remote_control_behaves_as_before": ("redis",),
    "celery/test_costs_of_the_line.py::test_the_line_costs_few_descriptors_and_threads": ALL,
    "celery/test_directives.py::test_g22_of_a_paused_queue_no_task_starts_and_what_waits_goes_back": (
        "redis-threads", "redis-solo", "amqp-prefork", "amqp-solo",
    ),
    "celery/test_django.py::test_a_schedule_of_django_celery_beat_fires_and_what_it_has_sent_is_revoked_by_name": ALL,
    "celery/test_django.py::test_g1_what_is_revoked_in_a_django_project_stays_so_and_its_database_has_the_results": ("redis",),
    "celery/test_durability.py::test_g4_a_clean_restart_without_a_state_file": ("redis",),
    "celery/test_durability.py::test_g4_sixty_thousand_ids": ("amqp",),
    "celery/test_endings.py::test_the_body_of_a_chord_ends_with_a_stopped_header": ("-P threads -c 2-stem", "-c 2-celery"),
    "celery/test_endings.py::test_what_follows_in_a_chain_is_revoked_with_the_stopped_task": ("-P solo", "-P threads -c 2-stem"),
    "celery/test_flower_on_guests.py::test_an_exporter_for_prometheus_counts_a_celery_worker_with_the_line": ALL,
    "celery/test_flower_on_guests.py::test_each_button_of_flower_does_on_a_celery_worker_with_the_line_what_celery_does": ALL,
    "celery/test_flower_on_guests.py::test_flower_s_autoscale_button_changes_a_worker_with_an_autoscaler": ALL,
    "celery/test_health.py::test_g34_a_celery_worker_is_ready_while_its_loop_consumes": ("amqp-prefork", "redis-threads"),
    "celery/test_monitors.py::test_an_exporter_for_prometheus_counts_the_worker_and_its_tasks": ALL,
    "celery/test_monitors.py::test_events_can_be_switched_off": ("redis",),
    "celery/test_monitors.py::test_flower_lists_both_kinds_and_its_button_revokes_for_good": ("redis",),
    "celery/test_otlp.py::test_g35_what_a_receiver_gets_of_a_celery_worker_agrees_with_its_tasks": (
        "amqp-threads-grpc", "redis-prefork-http",
    ),
    "celery/test_plain_workers.py::test_in_a_fleet_of_both_kinds_each_is_shown_as_what_it_is": ("redis",),
    "celery/test_plain_workers.py::test_where_no_worker_has_the_line_they_are_listed_and_revoke_in_memory": ("amqp",),
    "celery/test_pool_size.py::test_g21_a_celery_worker_that_starts_later_has_the_size_that_was_asked_for": ("gevent",),
    "celery/test_pool_size.py::test_g25_a_pool_grows_and_shrinks_and_harms_no_task": ("amqp-prefork", "redis-gevent"),
    "celery/test_rules.py::test_a_native_revoke_by_stamp_is_durable": (
        "redis-prefork", "redis-solo", "amqp-threads", "amqp-solo",
    ),
    "celery/test_rules.py::test_celery_s_own_command_line_names_stamps_as_texts": ("redis",),
    "celery/test_shutdown.py::test_g33_a_celery_worker_is_shut_down_warm_and_not_otherwise": ("amqp-prefork", "redis-threads"),
    "celery/test_steering_verbs.py::test_celery_control_pauses_and_resumes_a_queue_of_a_stem_worker_for_good": ("amqp",),
    "celery/test_steering_verbs.py::test_celery_control_scales_limits_and_stops_a_stem_worker": ("amqp",),
    "celery/test_task_rates.py::test_g21_a_celery_worker_that_starts_later_reads_the_limit_before_its_first_task": ("amqp",),
    "celery/test_task_rates.py::test_g25_a_task_s_rate_is_limited_at_a_celery_worker": (
        "amqp-solo", "redis-gevent", "redis-threads",
    ),
    "celery/test_without_a_store.py::test_the_line_never_keeps_a_worker_from_its_start": ("-P solo",),
    "compatibility/test_mixed_fleet.py::test_each_version_sees_the_other_s_workers_runs_its_tasks_and_reads_its_results": (
        "amqp",
    ),
    "compatibility/test_mixed_fleet.py::test_each_version_stops_what_runs_on_a_worker_of_the_other": ("amqp",),
    "control/test_reachable.py::test_g16_a_worker_with_two_hundred_questions_before_it_answers_each_once": ("Inspect", "Ping"),
    "servers/test_servers.py::test_a_killed_server_refuses_and_comes_back_on_its_port": ("rabbitmq_server",),
    "servers/test_servers.py::test_rabbitmq_keeps_a_durable_queue_over_a_kill": ALL,
    "servers/test_servers.py::test_start_and_stop_may_be_called_twice": ("rabbitmq_server",),
    "test_distribution.py::test_mypy_takes_types_from_the_wheel_because_it_says_that_it_has_some": ("False",),
    "test_distribution.py::test_pyright_takes_types_from_the_wheel": ALL,
    "test_trace_paths.py::test_the_tracer_prints_figures_of_both_paths_on_the_embedded_broker": ALL,
    "worker/test_kombu_words.py::test_what_no_queue_takes_is_an_error_where_it_is_sent": ("embedded",),
}  # fmt: skip
