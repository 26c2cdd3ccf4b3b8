"""The commands as functions, for notebooks and other programs: `from physiq_ray import Settings, train`.

Each function does what the command of its name does, and returns the result instead of printing it. Settings
are arguments only: neither PHYSIQ_ variables nor a file of settings are read. No function ends the process:
what fails is raised as a PhysiqError. Ray stays connected, so that the next call starts at once;
`ray.shutdown()` ends it.

train      settings → a model
evaluate   a model and labelled photos → its scores
predict    photos and a model → answers
audit      settings → counts and checks
sync       settings → photos in a folder
display    how the functions show progress
model      what they accept as a model

`physiq_ray` itself offers the functions. Their modules are imported when they are used first: Ray and torch
take seconds.
"""
