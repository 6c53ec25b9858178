import torch

from nowcast.model.attention import Attention


def test_attention_starts_as_the_identity():
    x = torch.randn(2, 16, 3, 4)
    torch.testing.assert_close(Attention(16)(x), x)


def test_attention_is_a_softmax_over_all_cells_without_scaling():
    attention = Attention(16)
    torch.nn.init.constant_(attention.gamma, 0.5)
    x = torch.randn(2, 16, 3, 4)
    query, key, value = (
        layer(x).flatten(2) for layer in (attention.query, attention.key, attention.value)
    )  # (2, 2, 12) each
    share = torch.softmax(torch.einsum("ncq,nck->nqk", query, key), dim=2)
    attended = torch.einsum("nqk,nck->ncq", share, value).reshape(2, 2, 3, 4)
    torch.testing.assert_close(attention(x), x + 0.5 * attention.output(attended))


def test_attention_over_rows_takes_the_columns_for_channels():
    attention = Attention(16, over="rows")
    torch.nn.init.constant_(attention.gamma, 0.5)
    x = torch.randn(2, 16, 3, 4)
    query, key, value = (
        layer(x) for layer in (attention.query, attention.key, attention.value)
    )  # (2, 2, 3, 4)
    share = torch.softmax(torch.einsum("ncrw,ndsw->ncrds", query, key).flatten(3), dim=3)
    attended = torch.einsum("ncrk,nkw->ncrw", share, value.flatten(1, 2))
    torch.testing.assert_close(attention(x), x + 0.5 * attention.output(attended))


def test_attention_of_a_narrow_network_keeps_one_channel():
    attention = Attention(4)
    assert attention.query.out_channels == 1
    assert attention(torch.randn(1, 4, 2, 2)).shape == (1, 4, 2, 2)


def test_attention_has_no_bias():
    assert sorted(name for name, _ in Attention(16).named_parameters()) == [
        "gamma",
        "key.weight",
        "output.weight",
        "query.weight",
        "value.weight",
    ]
