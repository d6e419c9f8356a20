"""Train a small convolutional network on noise with a pattern in it."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn, optim

# Config
epochs = 2
bs = 16  # samples in a batch
lr = 0.1

# Data: 8x8 images; the class is where the bright pixel is
g = torch.Generator().manual_seed(1)
x_train = torch.rand(72, 1, 8, 8, generator=g)
y_train = torch.randint(4, (72,), generator=g)
x_train[torch.arange(72), 0, y_train, y_train] += 1


class MnistCNN(nn.Module):
    """Three convolutions of stride 2."""

    def __init__(self, channels: int = 1, classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 16, kernel_size=3, stride=2, padding=1)
        self.conv2 = nn.Conv2d(16, 16, kernel_size=3, stride=2, padding=1)
        self.conv3 = nn.Conv2d(16, classes, kernel_size=3, stride=2, padding=1)
        self.pool = nn.AdaptiveAvgPool2d(1)

    def forward(self, xb: Tensor) -> Tensor:
        xb = F.relu(self.conv1(xb))  # one score a class comes out in the end
        xb = F.relu(self.conv2(xb))
        xb = F.relu(self.conv3(xb))
        return self.pool(xb).flatten(1)


torch.manual_seed(0)
model = MnistCNN(classes=4)
opt = optim.SGD(model.parameters(), lr=lr, momentum=0.9)

losses = []
for epoch in range(epochs):
    model.train()
    for idx in torch.randperm(len(x_train), generator=g).split(bs):
        xb, yb = x_train[idx], y_train[idx]
        loss = F.cross_entropy(model(xb), yb)
        loss.backward()
        opt.step()
        opt.zero_grad()
        losses.append(loss.item())

    model.eval()
    with torch.no_grad():
        valid_loss = F.cross_entropy(model(x_train), y_train).item()
    print(f"epoch {epoch}: loss {valid_loss:.4f}")

state = model.state_dict()
