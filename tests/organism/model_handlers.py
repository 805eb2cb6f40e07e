"""Handlers that keep models. A file of their own, because importing Serve takes worker processes a while."""

from ray import serve


class Models:
    """Keep two models, and say which one a task got, and whether it was loaded for it."""

    @serve.multiplexed(max_num_models_per_replica=2)
    async def model(self, name):
        return {"name": name, "uses": 0}

    async def __call__(self, task, context):
        model = await self.model(context.key)
        model["uses"] += 1
        return [model["name"], serve.get_multiplexed_model_id(), model["uses"] == 1]
