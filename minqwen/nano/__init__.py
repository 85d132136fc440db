"""The nano model: a small Qwen3.5 trained here, and the little world that it knows.

    world.py      what can be said in the world, and samples of it
    pictures.py   what can be seen in it: coloured shapes, still and moving
    tokenizer.py  the tokenizer and chat template, made from the world
    recipe.py     what is chosen about a training: its phases and numbers
    samples.py    what a step of it reads
    train.py      `make nano`: from nothing to data/nano
    score.py      `python -m minqwen.nano.score`: held-out accuracy, and the model card
    seedling.py   nano's smallest sibling, to watch while it learns: lesson 13
    variants.py   the hybrid with a part taken out, and `python -m minqwen.nano.ablations`: what each part is good for
    sft.py        `python -m minqwen.nano.sft`: a start for reinforcement learning, which leaves room
    rollouts.py   answers drawn to many sums, with the calculator in the loop, and how many are right
    tasks.py      what is rewarded
    rl.py         `python -m minqwen.nano.rl`: reinforcement learning
    records.py    `make rl`: the runs of it that lesson 14 looks at
"""
