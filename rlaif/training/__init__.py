"""What all trainings share: a child process, a model on disk in and out, exact resume.

    metrics = train("rlaif.finetune:fit", into, config, chains=chains, model=model)   # in the stage

The stage's process imports no torch. The training runs as `python -m rlaif.training ENTRY FOLDER`,
or under `accelerate launch` with the arguments of `config.launch`, so that its memory returns and
many GPUs cost no code. ENTRY is called with the folder, reads `job(folder)` and ends with
`finish(folder, metrics)`; between them are `models`, `examples` and `fitting`.
"""

from rlaif.training.launching import finish, job, launch, train

__all__ = ["finish", "job", "launch", "train"]
