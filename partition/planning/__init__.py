"""Measure, predict, decide: profiles, cost model, planner, and when to plan again."""
