"""Ray Train: fine-tune a ResNet50 data-parallel, stop early, resume, and write the model files.

run        train: a whole run from the driver's side
several    train several runs, at the same time if the cluster has room
folder     the run's folder: lock, record, checkpoints, the command that resumes it
record     what a run keeps from its start, and which settings cannot change afterwards
lock       who may train a run or write to an output
snapshot   Ray's list of a run's checkpoints, and its repair
workers    how many workers there are, what each asks of the cluster, and defaults for GPUs
fit        Ray's trainer, and what ends a run, in our words
in_process a training in this process, without workers
job        what the driver gives to a worker
loop       what each worker runs
outcome    what the driver gets back from the loop
plan       decisions as functions of values: who takes which photo, the learning rate, when to stop
feed       batches for the training device, copied ahead of the step
augment    a raw batch → the network's inputs and targets, with random changes, on the training device
network    what trains on one rank: layers, precision, optimizer, averages
batchnorm  batch norms of several ranks
measures   loss and accuracy of an epoch, reduced over all ranks
state      what a checkpoint contains
reports    the checkpoints of a run, and how they are reported
saving     checkpoints are written while the training continues
preemption notices that a node of the run is about to be taken away
faults     what ends a worker, in our words
watchdog   a worker that does nothing is found
events     what workers report to the driver, and how it gets there
metrics    the metrics of a run for Prometheus
table      the epoch table and its bars
history    the epochs as files next to the model
tracking   the epochs on an MLflow server
finish     what a run leaves at its end
text       the result of a run as text and as plain values

Nothing is imported here: Ray's processes import the parts they need, which takes seconds each.
"""
