"""Pre-norm self-attention blocks over tokens, with a position table added before every block."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["SelfAttention", "Transformer", "TransformerBlock"]


class SelfAttention(nn.Module):
    """Multi-head self-attention, ``(B, N, E)`` to ``(B, N, E)``, without bias on queries, keys and values.

    Args:
        embed_dim: E, divisible by ``num_heads``.
        num_heads: number of heads.
        dropout_rate: dropout on the attention weights and on the output.
    """

    def __init__(self, embed_dim: int, num_heads: int, dropout_rate: float) -> None:
        super().__init__()
        if embed_dim % num_heads:
            raise ValueError(
                f"embed_dim {embed_dim} is not divisible by num_heads {num_heads}; choose an embed_dim that is a "
                "multiple of num_heads."
            )
        self.num_heads = num_heads
        self.dropout_rate = dropout_rate
        self.qkv = nn.Linear(embed_dim, 3 * embed_dim, bias=False)
        self.project = nn.Linear(embed_dim, embed_dim)

    def forward(self, tokens: Tensor) -> Tensor:
        """Attend over the N tokens of ``(B, N, E)``."""
        heads = self.qkv(tokens).view(*tokens.shape[:2], 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        rate = self.dropout_rate if self.training else 0.0
        mixed = F.scaled_dot_product_attention(heads[0], heads[1], heads[2], dropout_p=rate)
        return F.dropout(self.project(mixed.transpose(1, 2).flatten(2)), rate)


class TransformerBlock(nn.Module):
    """``x + Drop(Attention(LN(x)))``, then ``x + MLP(LN(x))`` with an exact GELU.

    Args:
        embed_dim: E.
        mlp_dim: width of the MLP's hidden layer.
        num_heads: number of attention heads.
        dropout_rate: dropout inside the attention, after it, and twice in the MLP.
    """

    def __init__(self, embed_dim: int, mlp_dim: int, num_heads: int, dropout_rate: float) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(embed_dim)
        self.attention = SelfAttention(embed_dim, num_heads, dropout_rate)
        self.attention_dropout = nn.Dropout(dropout_rate)
        self.mlp_norm = nn.LayerNorm(embed_dim)
        self.mlp = nn.Sequential(
            nn.Linear(embed_dim, mlp_dim),
            nn.GELU(),
            nn.Dropout(dropout_rate),
            nn.Linear(mlp_dim, embed_dim),
            nn.Dropout(dropout_rate),
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """``(B, N, E)`` to ``(B, N, E)``."""
        tokens = tokens + self.attention_dropout(self.attention(self.attention_norm(tokens)))
        lifted: Tensor = self.mlp(self.mlp_norm(tokens))
        return tokens + lifted


class Transformer(nn.Module):
    """``depth`` blocks; the position table is added to the tokens before each of them.

    Args:
        embed_dim: E.
        mlp_dim: width of each block's MLP.
        num_heads: number of attention heads.
        depth: number of blocks.
        dropout_rate: dropout in each block.
    """

    def __init__(self, embed_dim: int, mlp_dim: int, num_heads: int, depth: int, dropout_rate: float) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(TransformerBlock(embed_dim, mlp_dim, num_heads, dropout_rate) for _ in range(depth))

    def forward(self, tokens: Tensor, position: Tensor) -> Tensor:
        """Transform tokens.

        Args:
            tokens: ``(B, N, E)``.
            position: ``(1, N, E)``.

        Returns:
            Tensor ``(B, N, E)``.
        """
        for block in self.blocks:
            tokens = block(tokens + position)
        return tokens
