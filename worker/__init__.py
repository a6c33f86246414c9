"""The process that takes jobs from the queue, runs their graphs and sends their webhooks."""
