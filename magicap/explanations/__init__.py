"""Why a caption reads as it does: what captioners looked at and weighed, as data and as drawings."""
