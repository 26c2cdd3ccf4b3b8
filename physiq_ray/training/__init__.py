"""Ray Train: fine-tune a ResNet50 data-parallel, stop early, resume, and write the model files.

plan       decisions as functions of values: who takes which photo, when to stop
augment    random changes of a batch on the training device
batchnorm  batch norms of several ranks
network    what trains on one rank: layers, precision, optimizer, averages
measures   numbers of an epoch, reduced over all ranks
state      what a checkpoint holds
faults     what ends a worker, in our words
progress   events from the workers, shown on the driver
loop       what each worker runs
record     what a run keeps of its start
snapshot   Ray's list of a run's checkpoints
lock       one trainer a run
history    the epochs as files beside the model
finish     what a run leaves at its end
run        a whole run from the driver's side

Nothing is imported here: Ray's processes import the parts they need, at some seconds each.
"""
