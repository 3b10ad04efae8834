class Condition:
    def condition_met(self):
        raise NotImplementedError()

    def reset(self):
        pass
