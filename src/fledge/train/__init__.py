"""Training: the one loop, optimizers, schedules, and rollouts for reinforcement learning."""
