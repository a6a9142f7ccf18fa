"""Optimisers: `update(policy, optimizer, episodes, reward_BT, config) -> dict[str, float]`, one file each."""
