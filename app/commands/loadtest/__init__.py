"""``duet loadtest``: the service under load, brought up for the run or already there."""
