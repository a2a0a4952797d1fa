"""Train two encoders towards a large CKA, on every device that the launcher was given."""

import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader, TensorDataset

from modalign.cka import MinibatchCKA, cka


def main():
    accelerator = Accelerator()
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 2048, 32, generator=generator)
    y[:, :8] += x[:, :8]  # what the two sides share
    loader = DataLoader(TensorDataset(x, y), batch_size=128, shuffle=True, generator=generator)
    torch.manual_seed(0)
    encoders = torch.nn.ModuleList(torch.nn.Linear(32, 16) for _ in range(2))
    optimizer = torch.optim.Adam(encoders.parameters(), lr=0.01)
    f, g = encoders
    f, g, optimizer, loader = accelerator.prepare(f, g, optimizer, loader)
    for epoch in range(5):
        metric = MinibatchCKA().to(accelerator.device)
        for a, b in loader:
            u, v = f(a), g(b)
            metric.update(u.detach(), v.detach())
            accelerator.backward(-cka(u, v))  # of this process's minibatch; gradients are averaged
            optimizer.step()
            optimizer.zero_grad()
        value = metric.compute()  # over the minibatches of all processes
        count = accelerator.num_processes
        accelerator.print(f"epoch {epoch}: CKA {value:.3f} over {count} processes")


if __name__ == "__main__":
    main()
