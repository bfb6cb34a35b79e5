"""Distances between two sets of feature vectors."""

import torch

NEIGHBOURS = 5


def frechet_distance(real, fake):
    """Frechet distance of two Gaussians fitted to real [N, F] and fake [M, F] (Heusel et al. 2017, eq. 6)."""
    return distance_of_moments(moments(real), moments(fake))


def moments(features):
    """Mean [F] and covariance [F, F] of features [N, F], in float64."""
    features = features.double()
    return features.mean(dim=0), torch.cov(features.T)


def distance_of_moments(real, fake):
    """Frechet distance of two Gaussians, each given by its mean [F] and covariance [F, F]."""
    (mean_real, covariance_real), (mean_fake, covariance_fake) = real, fake
    difference = (mean_real - mean_fake).square().sum()
    root = _square_root(covariance_real)
    cross = torch.linalg.eigvalsh(root @ covariance_fake @ root).clamp(min=0).sqrt().sum()
    return (difference + covariance_real.trace() + covariance_fake.trace() - 2 * cross).item()


def precision_recall_density_coverage(real, fake, neighbours=NEIGHBOURS):
    """k-NN precision and recall (Kynkaanniemi et al. 2019), density and coverage (Naeem et al. 2020), as a dict.

    real: [N, F]; fake: [M, F].
    """
    real_radius, fake_radius = _radius(real, neighbours), _radius(fake, neighbours)
    distance = torch.cdist(real, fake)  # [N, M]
    in_real = distance < real_radius[:, None]
    return {
        "precision": in_real.any(dim=0).float().mean().item(),
        "recall": (distance < fake_radius[None]).any(dim=1).float().mean().item(),
        "density": (in_real.float().sum(dim=0) / neighbours).mean().item(),
        "coverage": (distance.amin(dim=1) < real_radius).float().mean().item(),
    }


def spread(features):
    """Mean distance between two pictures of a group, mean over the groups; features: [groups, pictures, F].

    Distances of a picture to itself are left out.
    """
    groups, count, _ = features.shape
    distances = torch.cdist(features, features, compute_mode="donot_use_mm_for_euclid_dist")  # exactly 0 where equal
    return (distances.sum() / (groups * count * (count - 1))).item()


def _radius(features, neighbours):
    return torch.cdist(features, features).kthvalue(neighbours + 1, dim=1).values


def _square_root(matrix):
    values, vectors = torch.linalg.eigh(matrix)
    return vectors @ torch.diag(values.clamp(min=0).sqrt()) @ vectors.T
