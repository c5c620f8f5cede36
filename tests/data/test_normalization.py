import torch

from lasfast.data.normalization import Normalization, normalize

MEAN, STD = (0.4, 0.5, 0.1), (0.2, 0.25, 0.3)


def test_the_table_has_what_normalizing_gives() -> None:
    raw = torch.randint(256, (3, 3, 7, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    table = Normalization(MEAN, STD).table(torch.device("cpu"))
    assert (table.shape, table.dtype, table.is_contiguous()) == ((3, 256), torch.float32, True)
    looked_up = torch.stack([table[c][raw[:, c].long()] for c in range(3)], 1)
    assert torch.equal(looked_up, normalize(raw, MEAN, STD))
    assert torch.equal(looked_up, Normalization(MEAN, STD)(raw))
    truth = (torch.arange(256).double() / 255 - torch.tensor(MEAN).double()[:, None]) / torch.tensor(STD)[
        :, None
    ]
    torch.testing.assert_close(table.double(), truth, rtol=0, atol=1e-6)
