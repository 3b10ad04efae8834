class WaypointError(Exception):
    def __init__(self, message, task):
        super().__init__(f"Error in task {task.get_name()}. {message}")


class InvalidActionError(Exception):
    pass


class TaskEnvironmentError(Exception):
    pass
