import importlib


def name_to_task_class(task_file: str):
    name = task_file.replace(".py", "")
    module = importlib.import_module(f"rlbench.tasks.{name}")
    return getattr(module, "".join(w[0].upper() + w[1:] for w in name.split("_")))
