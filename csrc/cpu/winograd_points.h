// The numbers that Winograd's algorithm for tiles of 4 x 4 outputs is made of.
#pragma once

namespace lasfast {

// For a side of 4, a polynomial is taken at 0, the two numbers, their negatives, and infinity. (1 and 2 are
// usual. With these, rounding errors are less than half as large, since their powers are nearer to 1; the
// powers that the transforms have are exact in fp32.)
constexpr double winograd_near = 0.625, winograd_far = 1.5;

}  // namespace lasfast
