"""Study to plan. Pure: no torch, no clock, no disk but the plan file itself."""
