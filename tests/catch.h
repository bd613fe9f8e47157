// The one place that knows which Catch2 is installed.
#pragma once
#if ORRERY_CATCH_MAJOR >= 3
#include <catch2/catch_all.hpp>
using Catch::Approx;
#else
#include <catch2/catch.hpp>
#endif
