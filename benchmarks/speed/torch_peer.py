"""ANIL in PyTorch: the usual way, and the fastest ways known.

Variants are words joined by dashes:

- `usual`: as the common meta-learning library's example does. Batch normalisation over all images
  of a task, ReLU before pooling, a clone of the head adapted in a Python loop.
- `loop`: the same work with ReLU after pooling and without module calls: a task at a time is a
  chunk that fits the cache. `batch`: the convolutions of all tasks at once, `torch.func` for the
  heads. `floor`: plain supervised training on as many images.
- `channels_last`: that memory format.
- `bfloat16` and `float16`: `torch.autocast` around the backbone; the heads adapt in float32.
- `compile`: `torch.compile` of the loss; `graphs`: its mode with CUDA graphs.
- `joint`: normalised over all images of a task; `task`: over its support and its queries
  separately; otherwise over all images of the meta-batch, and by moving averages after training.
"""

import time
from collections.abc import Sequence
from typing import Any

from benchmarks.speed.worker import DEVICE, HALF, THREADS, keep_to_two_cores, serve

keep_to_two_cores()

import torch
import torch.nn.functional as F

from benchmarks.speed.workloads import (
    BLOCKS,
    EPSILON,
    INNER_LR,
    INNER_STEPS,
    LEARNING_RATE,
    MOMENTUM,
)

Tensors = Sequence[torch.Tensor]
PLACE = "cuda" if DEVICE == "gpu" else "cpu"


class Usual(torch.nn.Module):
    """Conv4 in its usual form."""

    def __init__(self, channels: int, filters: int) -> None:
        super().__init__()
        layers = []
        for block in range(BLOCKS):
            layers += [
                torch.nn.Conv2d(filters if block else channels, filters, 3, padding=1, bias=False),
                torch.nn.BatchNorm2d(filters, eps=EPSILON, momentum=1 - MOMENTUM),
                torch.nn.ReLU(),
                torch.nn.MaxPool2d(2),
            ]
        self.layers = torch.nn.Sequential(*layers, torch.nn.Flatten())

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Features `[B, D]`."""
        return self.layers(images)


class TorchANIL:
    """One variant on the tasks of an exchange file."""

    def __init__(self, variant: str, data: dict[str, Any]) -> None:
        words = variant.split("-")
        self.way, self.words = words[0], words[1:]
        self.memory_format = (
            torch.channels_last if "channels_last" in words else torch.contiguous_format
        )
        self.ways = int(data["ways"])
        filters = int(data["filters"])
        self.body: list[torch.Tensor] = []
        for block in range(BLOCKS):
            kernel = torch.from_numpy(data[f"conv{block}"]).permute(3, 2, 0, 1)
            self.body.append(kernel.contiguous(memory_format=self.memory_format))
            self.body += [torch.from_numpy(data[f"{name}{block}"]) for name in ("gamma", "beta")]
        self.running = [torch.zeros(filters), torch.ones(filters)] * BLOCKS
        # Features are flattened in the order channel, height, width here.
        kernel = torch.from_numpy(data["kernel"]).reshape(-1, filters, self.ways)
        kernel = kernel.transpose(0, 1).reshape(-1, self.ways)
        self.head = [kernel.t().contiguous(), torch.from_numpy(data["bias"])]
        self.body, self.head, self.running = (
            [value.to(PLACE) for value in values] for values in (self.body, self.head, self.running)
        )
        for weight in [*self.body, *self.head]:
            weight.requires_grad_()
        self.half = next((getattr(torch, name) for name in HALF if name in words), None)
        if self.way == "usual":
            self.net = Usual(int(data["channels"]), filters)
            self.net = self.net.to(PLACE, memory_format=self.memory_format)
            with torch.no_grad():
                for own, given in zip(self.net.parameters(), self.body, strict=True):
                    own.copy_(given)
            self.body = list(self.net.parameters())
        self.parameters = [*self.body, *self.head]
        self.optimizer = torch.optim.Adam(self.parameters, LEARNING_RATE, eps=1e-7)

        self.support, self.query = (
            torch.from_numpy(data[f"{part}_x"]).permute(0, 1, 4, 2, 3).contiguous().to(PLACE)
            for part in ("support", "query")
        )
        self.support_y, self.query_y = (
            torch.from_numpy(data[f"{part}_y"]).long().to(PLACE) for part in ("support", "query")
        )
        self.shots = self.support.shape[1]
        if "compile" in words or "graphs" in words:
            mode = "reduce-overhead" if "graphs" in words else "default"
            self.batch_loss = torch.compile(self.batch_loss, mode=mode)  # type: ignore[method-assign]

    def features(self, images: torch.Tensor, training: bool = True) -> torch.Tensor:
        """Features `[B, D]` of images `[B, C, H, W]`; in training normalised over all of them."""
        with torch.autocast(PLACE, self.half, enabled=self.half is not None):
            return self._features(images, training).float()

    def _features(self, images: torch.Tensor, training: bool) -> torch.Tensor:
        x = (images.float() / 255).contiguous(memory_format=self.memory_format)
        if self.way == "usual":
            return self.net(x)
        for block in range(BLOCKS):
            kernel, gamma, beta = self.body[3 * block : 3 * block + 3]
            mean, variance = self.running[2 * block : 2 * block + 2]
            x = F.conv2d(x, kernel, padding=1)
            x = F.batch_norm(x, mean, variance, gamma, beta, training, 1 - MOMENTUM, EPSILON)
            x = F.relu(F.max_pool2d(x, 2))
        return x.flatten(1)

    def task_features(self, task: int) -> Tensors:
        """Features of a task's support and queries."""
        if "task" in self.words:
            return self.features(self.support[task]), self.features(self.query[task])
        training = self.way != "batch"
        features = self.features(torch.cat([self.support[task], self.query[task]]), training)
        return features[: self.shots], features[self.shots :]

    def task_loss(self, support: Tensors | torch.Tensor, query: torch.Tensor, task: int) -> Any:
        """The queries' loss after adapting a copy of the head by autograd."""
        head = list(self.head)
        for _ in range(INNER_STEPS):
            loss = F.cross_entropy(F.linear(support, *head), self.support_y[task])
            gradients = torch.autograd.grad(loss, head, create_graph=True)
            head = [value - INNER_LR * step for value, step in zip(head, gradients, strict=True)]
        return F.cross_entropy(F.linear(query, *head), self.query_y[task])

    def batch_loss(self) -> torch.Tensor:
        """The mean loss of all tasks, their convolutions in one pass and their heads in `vmap`."""
        tasks = len(self.support)
        images = torch.cat([self.support, self.query], 1).flatten(0, 1)
        features = self.features(images).reshape(tasks, -1, self.head[0].shape[1])

        def support_loss(head: Tensors, support: torch.Tensor, labels: torch.Tensor) -> Any:
            return F.cross_entropy(F.linear(support, *head), labels)

        def one_task(rows: torch.Tensor, labels: torch.Tensor, query_labels: torch.Tensor) -> Any:
            head = tuple(self.head)
            for _ in range(INNER_STEPS):
                gradients = torch.func.grad(support_loss)(head, rows[: self.shots], labels)
                head = tuple(w - INNER_LR * step for w, step in zip(head, gradients, strict=True))
            return F.cross_entropy(F.linear(rows[self.shots :], *head), query_labels)

        losses = torch.func.vmap(one_task)(features, self.support_y, self.query_y)
        return losses.mean()

    def backward(self) -> float:
        """Leaves the gradients of one step; the loss."""
        self.optimizer.zero_grad()
        tasks = len(self.support)
        if self.way == "batch":
            loss = self.batch_loss()
            loss.backward()
            return loss.item()
        if self.way == "floor":
            images = torch.cat([self.support, self.query], 1).flatten(0, 1)
            labels = torch.cat([self.support_y, self.query_y], 1).flatten()
            loss = F.cross_entropy(F.linear(self.features(images), *self.head), labels)
            loss.backward()
            return loss.item()
        total = 0.0
        for task in range(tasks):
            support, query = self.task_features(task)
            loss = self.task_loss(support, query, task) / tasks
            loss.backward()
            total += loss.item()
        return total

    def check(self) -> tuple[float, float]:
        """Loss and gradient norm of the first step."""
        loss = self.backward()
        squares = sum(float(weight.grad.double().square().sum()) for weight in self.parameters)
        return loss, squares**0.5

    def train(self, steps: int) -> list[float]:
        """Seconds of each training step."""
        seconds = []
        for _ in range(steps):
            start = time.perf_counter()
            self.backward()
            self.optimizer.step()
            if PLACE == "cuda":
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - start)
        return seconds

    def adapt(self, calls: int) -> list[float]:
        """Seconds of each adaptation to the first task with its predictions."""
        seconds = []
        for _ in range(calls):
            start = time.perf_counter()
            with torch.no_grad():
                support, query = self.task_features(0)
            head = [weight.detach().requires_grad_() for weight in self.head]
            for _ in range(INNER_STEPS):
                loss = F.cross_entropy(F.linear(support, *head), self.support_y[0])
                gradients = torch.autograd.grad(loss, head)
                head = [
                    (value - INNER_LR * step).detach().requires_grad_()
                    for value, step in zip(head, gradients, strict=True)
                ]
            with torch.no_grad():
                F.linear(query, *head).argmax(1).cpu()
            seconds.append(time.perf_counter() - start)
        return seconds


if __name__ == "__main__":
    if DEVICE == "cpu":
        torch.set_num_threads(THREADS)
    serve(TorchANIL)
