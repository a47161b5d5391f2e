// The functions that are applied to each entry, each with its derivative. At kinks, and for NaN and infinities, both
// are those of torch.
#pragma once

#include "pointwise/math.hpp"

namespace SPARSECORE_VARIANT {

struct Relu6 {
  static Vector value(Vector x, float) { return at_most(at_least(x, 0.0f), 6.0f); }
  static Vector derivative(Vector x, float) {
    const Vector below_six = x >= broadcast(6.0f) ? zeros() : broadcast(1.0f);
    return x <= zeros() ? zeros() : below_six;
  }
};

struct LeakyRelu {
  static Vector value(Vector x, float slope) { return x > zeros() ? x : x * slope; }
  static Vector derivative(Vector x, float slope) { return x > zeros() ? broadcast(1.0f) : broadcast(slope); }
};

struct Silu {
  static Vector value(Vector x, float) { return x * sigmoid(x).value; }
  static Vector derivative(Vector x, float) {
    const auto [gate, slope] = sigmoid(x);
    return gate + x * slope;
  }
};

struct Gelu {
  static Vector value(Vector x, float) { return x * normal(x).below; }
  static Vector derivative(Vector x, float) {
    const auto [density, below] = normal(x);
    return below + x * density;
  }
};

// x * (1 + tanh(u)) / 2 = x * sigmoid(2u)
struct GeluTanh {
  static constexpr float LINEAR = 1.59576912f, CUBIC = 0.0713548163f;  // sqrt(8 / pi), times 0.044715

  static Vector value(Vector x, float) { return x * sigmoid(x * (LINEAR + CUBIC * (x * x))).value; }
  static Vector derivative(Vector x, float) {
    const Vector square = x * x;
    const auto [gate, slope] = sigmoid(x * (LINEAR + CUBIC * square));
    return gate + x * slope * (LINEAR + 3.0f * CUBIC * square);
  }
};

struct HardSigmoid {
  static Vector value(Vector x, float) { return at_most(at_least(x + 3.0f, 0.0f), 6.0f) * (1.0f / 6.0f); }
  static Vector derivative(Vector x, float) {
    const Vector below = x < broadcast(3.0f) ? broadcast(1.0f / 6.0f) : zeros();
    return x > broadcast(-3.0f) ? below : zeros();
  }
};

struct HardSwish {
  static Vector value(Vector x, float) { return x * HardSigmoid::value(x, 0.0f); }
  static Vector derivative(Vector x, float) {
    const Vector inside = x > broadcast(-3.0f) ? x * (1.0f / 3.0f) + 0.5f : zeros();
    return x < broadcast(3.0f) ? inside : broadcast(1.0f);
  }
};

struct Sigmoid {
  static Vector value(Vector x, float) { return sigmoid(x).value; }
  static Vector derivative(Vector x, float) { return sigmoid(x).derivative; }
};

struct Tanh {
  static Vector value(Vector x, float) { return tanh(x); }
  static Vector derivative(Vector x, float) { return 4.0f * sigmoid(2.0f * x).derivative; }
};

struct Elu {
  static Vector value(Vector x, float alpha) {
    return x <= zeros() ? alpha * exponential(at_most(x, 0.0f)).minus_one() : x;
  }
  static Vector derivative(Vector x, float alpha) { return x <= zeros() ? alpha * exp(x) : broadcast(1.0f); }
};

struct Softplus {
  static Vector value(Vector x, float beta) {
    return at_least(x, 0.0f) + log_of_one_plus(exp(-absolute(beta * x))) / beta;
  }
  static Vector derivative(Vector x, float beta) { return sigmoid(beta * x).value; }
};

// x * tanh(softplus(x)), where tanh(softplus(x)) = w / (w + 2) with w = exp(x)^2 + 2 exp(x).
struct Mish {
  // From 20 on the function is x, to the last bit.
  static constexpr float HIGHEST = 20.0f;

  static Vector value(Vector x, float) {
    const Vector power = exp(at_most(x, HIGHEST)), w = power * (power + 2.0f);
    return x * (w / (w + 2.0f));
  }
  static Vector derivative(Vector x, float) {
    const Vector power = exp(at_most(x, HIGHEST)), w = power * (power + 2.0f), inverse = 1.0f / (w + 2.0f);
    const Vector slope = 4.0f * ((w + 1.0f) * inverse) * inverse * (power / (1.0f + power));
    return w * inverse + x * slope;
  }
};

}  // namespace SPARSECORE_VARIANT
