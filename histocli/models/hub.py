"""Errors of the Hugging Face hub, with hints."""

from histocli.errors import HistoError, first_line

_LOGIN = "hf auth login"  # huggingface-cli login in older versions of huggingface_hub


def hub_error(arch: str, repository: str, error: Exception) -> HistoError:
    """Return the error for weights on the hub that cannot be loaded, with a hint how to get them."""
    from huggingface_hub.constants import HF_HUB_CACHE
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    page = f"https://huggingface.co/{repository}"
    if isinstance(error, GatedRepoError):
        if error.response.status_code == 401:
            reason, hint = "you are not logged in", f"ask for access on {page}, then log in: {_LOGIN}"
        else:
            reason, hint = "your account has no access yet", f"ask for access on {page}, and wait for the answer"
        return HistoError(f"the weights of {arch} are only for users with access, and {reason}", hint)
    if isinstance(error, RepositoryNotFoundError):
        return HistoError(
            f"there is no {repository} on the Hugging Face hub, or your account may not see it",
            f"check {page}, then log in: {_LOGIN}",
        )
    return HistoError(
        f"the pretrained weights of {arch} cannot be loaded: {first_line(error)[:300]}",
        f"try again with a network connection, or copy {HF_HUB_CACHE}/models--{repository.replace('/', '--')} from a "
        "computer that has the weights",
    )
