"""What a worker and killed clients leave behind after a great deal of work: nothing (G15).

``make soak-resources`` sends hundreds of thousands of tasks and commands through one worker on each broker, kills clients in
mid-command, and writes the figures as JSON; a small version of both is in the suite.
"""
