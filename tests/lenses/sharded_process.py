"""A training of a model that FSDP shards over processes: python -m tests.lenses.sharded_process OUT."""

import os
import sys

import torch
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

import lenskit as lk
from tests.lenses.training_process import trained
from tests.models.tiny import tiny


def main(out: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo")
    mesh = init_device_mesh("cpu", (int(os.environ["WORLD_SIZE"]),))
    hf_model = tiny("llama")
    for block in hf_model.model.layers:
        fully_shard(block, mesh=mesh)
    fully_shard(hf_model, mesh=mesh)
    lens = trained(lk.Model(hf_model, name="tiny"))
    if os.environ["RANK"] == "0":
        lens.save(out)
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
